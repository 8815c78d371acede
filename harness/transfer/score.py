"""A transferability score: from a source model's features and class probabilities on a target's training images to one number.

The catalogue is `harness/scores/`. Each file there has `NEEDS` and

    score(*, features, probs, labels) -> float      larger is better

with features [N, D] (float, from before the head), probs [N, C] (rows sum to 1: the source's own classes) and labels [N]
(integers; whatever their values, they are renumbered). What a score does not look at may be None. Where an image has many
labels, [N, K] of 1, 0 and -1, logme takes them, and the others raise UserError.

A file may also have `variants(*, features, probs, labels, device) -> {name: value}`, the score first and then its variants,
where several cost little more than one; and `details(*, features, labels) -> {"score": value, ...}`, where what the score was
computed with is worth telling. `compute` runs any number of them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from writers import names
from writers.errors import UserError


class Score(Protocol):
    """What a file of `harness/scores/` has."""

    NEEDS: tuple[str, ...]  # of "features", "probs"
    score: Callable[..., float]


@dataclass(frozen=True)
class Scores:
    """What `compute` found. A score is in `scores` or in `failed`."""

    scores: dict[str, float] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # name -> why
    seconds: dict[str, float] = field(default_factory=dict)  # of each, with its variants
    num_duplicates: int = 0  # images whose features equal an earlier one's: they flatter kNN


def find(name: str) -> Score:
    """The score of that name. Raises UserError, with the near names, for an unknown one."""
    return cast(Score, names.find("harness.transfer.scores", name, "score"))


def compute(
    asked: Sequence[str],
    *,
    features: Any,
    probs: Any,
    labels: Any,
    device: str = "cpu",
    before: Callable[[int, str], None] = lambda number, name: None,
) -> Scores:
    """The scores of these names, with their variants. One that cannot be computed is in `failed`; the others go on.

    `before` is called before each, with its number and name. Raises UserError for an unknown name only.
    """
    from harness.transfer.scores.knn import duplicates

    modules = {name: find(name) for name in asked}
    found = Scores(num_duplicates=duplicates(features))
    for number, (name, module) in enumerate(modules.items()):
        before(number, name)
        started = time.monotonic()
        try:
            values, details = _values(
                name, module, features=features, probs=probs, labels=labels, device=device
            )
            for variant, value in values.items():
                if np.isfinite(value):
                    found.scores[variant] = float(value)
                else:
                    found.failed[variant] = f"gives {value}, which is no number to compare."
            if details:
                found.details[name] = details
        except UserError as error:
            found.failed[name] = " ".join(str(error).split())
        except (
            ArithmeticError,
            ValueError,
            MemoryError,
            np.linalg.LinAlgError,
            ImportError,
        ) as error:
            found.failed[name] = f"{type(error).__name__}: {error}"
        found.seconds[name] = time.monotonic() - started
    return found


def _values(
    name: str, module: Score, *, features: Any, probs: Any, labels: Any, device: str
) -> tuple[dict[str, float], dict[str, Any]]:
    if hasattr(module, "variants"):
        return module.variants(features=features, probs=probs, labels=labels, device=device), {}
    if hasattr(module, "details"):
        details = dict(module.details(features=features, labels=labels))
        return {name: details.pop("score")}, details
    return {name: module.score(features=features, probs=probs, labels=labels)}, {}


def checked_features(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Features as float64 [N, D], labels as 0..K-1 (only those present), and K. Raises UserError for what does not fit."""
    return _matrix("features", features, labels), *_renumbered(labels)


def checked_targets(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features as float64 [N, D], and the labels as 0.0 or 1.0, [N, K], of the K classes that are present.

    labels: [N], or [N, K] where an image has many: 1 is there; anything else is not, also 0, which VOC says of what is hard
    to see. Raises UserError likewise.
    """
    matrix, given = _matrix("features", features, labels), np.asarray(labels)
    if given.ndim != 2:
        classes, num_classes = _renumbered(given)
        return matrix, np.eye(num_classes)[classes]
    if not np.isin(given, (-1, 0, 1)).all():
        raise UserError(
            f"labels [N, K] are 1, 0 or -1; here one is {given[~np.isin(given, (-1, 0, 1))].flat[0]}."
        )
    present = (given == 1).any(axis=0)
    if not present.any():
        raise UserError("No image has a label.")
    return matrix, (given[:, present] == 1).astype(np.float64)


def checked_probs(probs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Probabilities as float64 [N, C] with rows that sum to 1, labels as 0..K-1, and K. Raises UserError likewise.

    float64, because a softmax of half precision gives exact zeros. Sums within 1e-3 of 1 are put right.
    """
    matrix = _matrix("probs", probs, labels)
    sums = matrix.sum(axis=1)
    if (matrix < 0).any() or (np.abs(sums - 1) > 1e-3).any():
        row = int(np.argmax((matrix < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3)))
        raise UserError(
            f"probs are not probabilities: row {row} sums to {sums[row]:.4g}, its lowest is "
            f"{matrix[row].min():.4g}.",
            "Give softmax probabilities of the source's classes, not logits.",
        )
    return matrix / sums[:, None], *_renumbered(labels)


def _matrix(what: str, values: Any, labels: Any) -> np.ndarray:
    if values is None:
        raise UserError(
            f"This score needs {what}, and there are none."
            + (" The model has no classes of its own." if what == "probs" else "")
        )
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or len(matrix) != len(labels) or not len(matrix):
        raise UserError(
            f"{what} have the shape {matrix.shape} for {len(labels)} labels; "
            f"{what} are [N, {'D' if what == 'features' else 'C'}] and labels [N], and N is at least 1."
        )
    if not np.isfinite(matrix).all():
        raise UserError(
            f"{what} are not finite in row {int(np.argmax(~np.isfinite(matrix).all(axis=1)))}."
        )
    return matrix


def _renumbered(labels: Any) -> tuple[np.ndarray, int]:
    values = np.asarray(labels)
    if values.ndim == 2:
        raise UserError("An image has many labels here; this score is for one.")
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise UserError(
            f"labels are {values.dtype} of the shape {values.shape}; they must be integers, [N]."
        )
    present, renumbered = np.unique(values, return_inverse=True)
    return renumbered, len(present)
