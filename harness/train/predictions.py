"""Save predictions and detections of each image, to compare models and to analyze errors."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.system.atomic_write import write_atomically
from harness.train.detection_scores import Detected, Objects
from loaders.backend import Loader

FILE = "predictions.npz"
DETECTIONS_FILE = "detections.npz"
KINDS = ("predicted", "correct", "scores")


def save(folder: Path, loader: Loader, predictions: Mapping[str, tuple[np.ndarray, ...]]) -> str:
    """Save predictions for all images of the loader, in the order of its epoch 0.

    Args:
        folder: Folder of the file.
        loader: Loader of the images.
        predictions: See `save_arrays`; arrays in the order in which a single process reads the
            images.

    Returns:
        The name of the file.
    """
    order = loader.samples.order(replace(loader.plan, rank=0, world_size=1), 0)
    return save_arrays(folder, loader.samples.ids[order], loader.samples.labels[order], predictions)


def save_arrays(
    folder: Path,
    ids: np.ndarray,
    labels: np.ndarray,
    predictions: Mapping[str, tuple[np.ndarray, ...]],
) -> str:
    """Write FILE, which holds arrays over N images.

    `sample`, uint64 [N], is the id of each image, the same in every `.beton` file with that image.
    `label` is its class, numbered as in the model, int32 [N]. If images have several labels, it is
    int8 [N, K]. For each NAME in `predictions` there are `NAME_predicted`, the predicted class,
    int32 [N] (-1 if the view does not score the image), and `NAME_correct`, bool [N]. With several
    labels there is also `NAME_scores`, float32 [N, K], from which average precision is computed.

    Args:
        folder: Folder of the file.
        ids: uint64 [N].
        labels: int64 [N] or int8 [N, K].
        predictions: Name of a view (see `harness.train.evaluate.View`) or of a split -> its arrays
            in the order of KINDS.

    Returns:
        The name of the file.
    """
    arrays = {"sample": ids, "label": labels.astype(np.int32) if labels.ndim == 1 else labels}
    for name, columns in predictions.items():
        assert all(len(array) == len(ids) for array in columns), name
        arrays |= {f"{name}_{kind}": array for kind, array in zip(KINDS, columns, strict=False)}
    return _write(folder / FILE, arrays)


def save_detections(folder: Path, ids: np.ndarray, detected: Detected, objects: Objects) -> str:
    """Write DETECTIONS_FILE, which holds arrays over N images, D detections and G objects.

    `sample`, uint64 [N], is the id of each image, the same in every `.beton` file with that image.
    Each detection has `image`, int32 [D], the index of its image in `sample`; `label`, int32 [D],
    its class from 0; `score`, float32 [D]; and `box`, float32 [D, 4]: left, top, right and bottom
    in pixels of the stored image. Each annotated object has `object_image`, `object_label` and
    `object_box` of the same form, and `object_difficult`, bool [G].

    Args:
        folder: Folder of the file.
        ids: uint64 [N].
        detected: Detections in all images. Their values were computed in float32 or bf16, so
            float32 holds them exactly.
        objects: Objects of all images.

    Returns:
        The name of the file.
    """
    arrays = {
        "sample": ids,
        "image": detected.image.astype(np.int32),
        "label": detected.labels.astype(np.int32),
        "score": detected.scores.astype(np.float32),
        "box": detected.boxes.astype(np.float32),
        "object_image": objects.image.astype(np.int32),
        "object_label": objects.labels.astype(np.int32),
        "object_box": objects.boxes.astype(np.float32),
        "object_difficult": objects.difficult,
    }
    return _write(folder / DETECTIONS_FILE, arrays)


def read_detections(file: Path) -> tuple[np.ndarray, Detected, Objects]:
    """Read the file that `save_detections` wrote.

    `harness.train.detection_scores.average_precisions` computes the reported scores from it.

    Returns:
        Ids of the images, uint64 [N], detections and objects.

    Raises:
        OSError: the file is missing or cannot be read.
        KeyError, ValueError, EOFError, BadZipFile: it is not a file of detections, or damaged.
    """
    with np.load(file, allow_pickle=False) as arrays:
        detected = Detected(
            arrays["image"].astype(np.int64),
            arrays["box"].astype(np.float64),
            arrays["label"].astype(np.int64),
            arrays["score"].astype(np.float64),
        )
        objects = Objects(
            arrays["object_image"].astype(np.int64),
            arrays["object_box"].astype(np.float64),
            arrays["object_label"].astype(np.int64),
            arrays["object_difficult"],
        )
        return arrays["sample"], detected, objects


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> str:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(file, buffer.getvalue())
    return file.name
