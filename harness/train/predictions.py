"""What a model answered, image by image, for tests of significance between models and for looking at mistakes."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.system.atomic_write import write_atomically
from loaders.backend import Loader

FILE = "predictions.npz"
KINDS = ("predicted", "correct", "scores")


def save(folder: Path, loader: Loader, answers: Mapping[str, tuple[np.ndarray, ...]]) -> str:
    """`save_arrays` for the images of the loader's epoch 0, in the order of one process."""
    order = loader.samples.order(replace(loader.plan, rank=0, world_size=1), 0)
    return save_arrays(folder, loader.samples.ids[order], loader.samples.labels[order], answers)


def save_arrays(
    folder: Path, ids: np.ndarray, labels: np.ndarray, answers: Mapping[str, tuple[np.ndarray, ...]]
) -> str:
    """Write FILE, and return its name: arrays over N images.

    `sample` uint64: each image's id, the same in every beton that holds the image. `label`: its class in the model's order
    (int32 [N], or int8 [N, K] with many labels). For each name of `answers`, `NAME_predicted` int32 (-1: not counted in that
    view) and `NAME_correct` bool; with many labels also `NAME_scores` float32 [N, K], of which average precision is made.
    """
    arrays = {"sample": ids, "label": labels.astype(np.int32) if labels.ndim == 1 else labels}
    for name, found in answers.items():
        assert all(len(array) == len(ids) for array in found), name
        arrays |= {f"{name}_{kind}": array for kind, array in zip(KINDS, found, strict=False)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(folder / FILE, buffer.getvalue())
    return FILE
