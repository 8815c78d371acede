"""Predictions per image, for significance tests between models and for error analysis."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.system.atomic_write import write_atomically
from loaders.backend import Loader

FILE = "predictions.npz"
KINDS = ("predicted", "correct", "scores")


def save(folder: Path, loader: Loader, predictions: Mapping[str, tuple[np.ndarray, ...]]) -> str:
    """Call `save_arrays` for the images of the loader's epoch 0, in the order of one process."""
    order = loader.samples.order(replace(loader.plan, rank=0, world_size=1), 0)
    return save_arrays(folder, loader.samples.ids[order], loader.samples.labels[order], predictions)


def save_arrays(
    folder: Path,
    ids: np.ndarray,
    labels: np.ndarray,
    predictions: Mapping[str, tuple[np.ndarray, ...]],
) -> str:
    """Write FILE, arrays over N images.

    `sample`, uint64 [N], is the id of each image, the same in every beton that has the image.
    `label` is its class in the model's order, int32 [N], or int8 [N, K] with several labels. For
    each NAME in `predictions` there are `NAME_predicted`, int32 [N] (-1 if the view does not count
    the image), and `NAME_correct`, bool [N]. With several labels there are also `NAME_scores`,
    float32 [N, K], from which average precision is computed.

    Args:
        folder: Folder of the file.
        ids: uint64 [N].
        labels: int64 [N] or int8 [N, K].
        predictions: Name of a view, and its arrays in the order of KINDS.

    Returns:
        The name of the file.
    """
    arrays = {"sample": ids, "label": labels.astype(np.int32) if labels.ndim == 1 else labels}
    for name, columns in predictions.items():
        assert all(len(array) == len(ids) for array in columns), name
        arrays |= {f"{name}_{kind}": array for kind, array in zip(KINDS, columns, strict=False)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(folder / FILE, buffer.getvalue())
    return FILE
