"""A transferability score: from a source model's features and class probabilities on a target's training images to one number.

The catalogue is `harness/scores/`. Each file there has `NEEDS` and

    score(*, features, probs, labels) -> float      larger is better

with features [N, D] (float, from before the head), probs [N, C] (rows sum to 1: the source's own classes) and labels [N]
(integers; whatever their values, they are renumbered). What a score does not look at may be None.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np

from writers import names
from writers.errors import UserError


class Score(Protocol):
    """What a file of `harness/scores/` has."""

    NEEDS: tuple[str, ...]              # of "features", "probs"
    score: Callable[..., float]


def find(name: str) -> Score:
    """The score of that name. Raises UserError, with the near names, for an unknown one."""
    return cast(Score, names.find("harness.scores", name, "score"))


def checked_features(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Features as float64 [N, D], labels as 0..K-1 (only those present), and K. Raises UserError for what does not fit."""
    return _matrix("features", features, labels), *_renumbered(labels)


def checked_probs(probs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Probabilities as float64 [N, C] with rows that sum to 1, labels as 0..K-1, and K. Raises UserError likewise.

    float64, because a softmax of half precision gives exact zeros. Sums within 1e-3 of 1 are put right.
    """
    matrix = _matrix("probs", probs, labels)
    sums = matrix.sum(axis=1)
    if (matrix < 0).any() or (np.abs(sums - 1) > 1e-3).any():
        row = int(np.argmax((matrix < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3)))
        raise UserError(f"probs are not probabilities: row {row} sums to {sums[row]:.4g}, its lowest is "
                        f"{matrix[row].min():.4g}.", "Give softmax probabilities of the source's classes, not logits.")
    return matrix / sums[:, None], *_renumbered(labels)


def _matrix(what: str, values: Any, labels: Any) -> np.ndarray:
    if values is None:
        raise UserError(f"This score needs {what}.")
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or len(matrix) != len(labels) or not len(matrix):
        raise UserError(f"{what} have the shape {matrix.shape} for {len(labels)} labels; "
                        f"{what} are [N, {'D' if what == 'features' else 'C'}] and labels [N], and N is at least 1.")
    if not np.isfinite(matrix).all():
        raise UserError(f"{what} are not finite in row {int(np.argmax(~np.isfinite(matrix).all(axis=1)))}.")
    return matrix


def _renumbered(labels: Any) -> tuple[np.ndarray, int]:
    values = np.asarray(labels)
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise UserError(f"labels are {values.dtype} of the shape {values.shape}; they must be integers, [N].")
    present, renumbered = np.unique(values, return_inverse=True)
    return renumbered, len(present)
