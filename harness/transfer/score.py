"""Compute transferability scores from a model's outputs for the images of a target's train split.

The scores are in `harness/transfer/scores/`, one file each. Each file has `NEEDS` and

    score(*, features, probs, labels) -> float      larger is better

with features [N, D] (floats, the inputs of the head), probs [N, C] (probabilities of the classes of
pretraining; rows sum to 1) and labels [N] (integers, which `score` renumbers). Inputs that a score
does not need may be None. If images have several labels, labels are [N, K] with 1 (present), 0
(difficult) and -1 (absent). Only logme accepts these; other scores raise UserError.

A file may also have two functions. `variants(*, features, probs, labels, device) -> {name: value}`
returns the score and its variants, if these take little more time than the score alone.
`details(*, features, labels) -> {"score": value, ...}` also returns parameters of the computation.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from writers import names
from writers.errors import UserError
from writers.text_names import counted


class Score(Protocol):
    """Interface of a file of `harness/transfer/scores/`."""

    NEEDS: tuple[str, ...]  # "features", "probs" or both
    score: Callable[..., float]


@dataclass(frozen=True)
class Scores:
    """Result of `compute`. Each score is either in `scores` or in `failed`."""

    scores: dict[str, float] = field(default_factory=dict)  # name of a score or variant -> value
    # Name of a score -> parameters of its computation, from the function `details` of its file.
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # name -> reason
    seconds: dict[str, float] = field(default_factory=dict)  # per score, with its variants
    num_duplicates: int = 0  # images whose features equal an earlier image's; they bias kNN up


def find(name: str) -> Score:
    """Import a score. If the name is unknown, raise UserError with similar names."""
    return cast(Score, names.find("harness.transfer.scores", name, "score"))


def compute(
    score_names: Sequence[str],
    *,
    features: Any,
    probs: Any,
    labels: Any,
    device: str = "cpu",
    before: Callable[[int, str], None] = lambda number, name: None,
) -> Scores:
    """Compute scores and their variants. Scores that fail are listed in `failed`.

    Args:
        score_names: names of scores.
        features: [N, D], or None.
        probs: [N, C], or None.
        labels: [N], or [N, K] for several labels per image.
        device: device of scores that can use a GPU.
        before: called with index, from 0, and name of each score before it is computed.

    Raises:
        UserError: a name is unknown.
    """
    from harness.transfer.scores.knn import duplicates

    modules = {name: find(name) for name in score_names}
    result = Scores(num_duplicates=duplicates(features))
    for number, (name, module) in enumerate(modules.items()):
        before(number, name)
        started = time.monotonic()
        try:
            values, details = _values(
                name, module, features=features, probs=probs, labels=labels, device=device
            )
            for variant, value in values.items():
                if np.isfinite(value):
                    result.scores[variant] = float(value)
                else:
                    result.failed[variant] = f"gives {value}, which cannot be compared."
            if details:
                result.details[name] = details
        except UserError as error:
            result.failed[name] = " ".join(str(error).split())
        except (
            ArithmeticError,
            ValueError,
            MemoryError,
            np.linalg.LinAlgError,
            ImportError,
        ) as error:
            result.failed[name] = f"{type(error).__name__}: {error}"
        result.seconds[name] = time.monotonic() - started
    return result


def _values(
    name: str, module: Score, *, features: Any, probs: Any, labels: Any, device: str
) -> tuple[dict[str, float], dict[str, Any]]:
    if hasattr(module, "variants"):
        return module.variants(features=features, probs=probs, labels=labels, device=device), {}
    if hasattr(module, "details"):
        details = dict(module.details(features=features, labels=labels))
        return {name: details.pop("score")}, details
    return {name: module.score(features=features, probs=probs, labels=labels)}, {}


def check_features(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Check features [N, D] and labels [N].

    Returns:
        Features as float64 [N, D], labels renumbered to 0..K-1, and K.

    Raises:
        UserError: wrong shapes or values.
    """
    return _matrix("features", features, labels), *_renumber(labels)


def check_targets(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check features, and labels of one or several classes per image.

    Args:
        features: [N, D].
        labels: [N], or [N, K] with 1 for present, -1 for absent, and 0 for difficult in VOC, which
            counts as absent.

    Returns:
        Features, float64 [N, D], and labels, 0.0 or 1.0, [N, K], for the K classes that occur.

    Raises:
        UserError: wrong shapes or values.
    """
    matrix, given = _matrix("features", features, labels), np.asarray(labels)
    if given.ndim != 2:
        classes, num_classes = _renumber(given)
        return matrix, np.eye(num_classes)[classes]
    if not np.isin(given, (-1, 0, 1)).all():
        raise UserError(
            "labels [N, K] are 1, 0 or -1; here one is "
            f"{given[~np.isin(given, (-1, 0, 1))].flat[0]}."
        )
    present = (given == 1).any(axis=0)
    if not present.any():
        raise UserError(
            "No image has a label.", "Check the labels [N, K]: 1 marks a present class."
        )
    return matrix, (given[:, present] == 1).astype(np.float64)


def check_probs(probs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Check probabilities [N, C] and labels [N].

    Rows whose sum is within 1e-3 of 1 are normalized in float64. Zeros are allowed, because a
    softmax in half precision has exact zeros.

    Returns:
        Probabilities as float64 [N, C], labels renumbered to 0..K-1, and K.

    Raises:
        UserError: wrong shapes or values.
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
    return matrix / sums[:, None], *_renumber(labels)


def _matrix(what: str, values: Any, labels: Any) -> np.ndarray:
    if values is None:
        raise UserError(
            f"This score needs {what}, but there are none."
            + (" The model has no classes of its own." if what == "probs" else ""),
            "Leave the score out, or use a model that has them.",
        )
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or len(matrix) != len(labels) or not len(matrix):
        raise UserError(
            f"{what} have shape {matrix.shape} for {counted(len(labels), 'label')}; {what} are [N, "
            f"{'D' if what == 'features' else 'C'}] and labels [N], and N is at least 1."
        )
    if not np.isfinite(matrix).all():
        raise UserError(
            f"{what} are not finite in row {int(np.argmax(~np.isfinite(matrix).all(axis=1)))}.",
            "Check the model's weights, and use precision: float32.",
        )
    return matrix


def _renumber(labels: Any) -> tuple[np.ndarray, int]:
    values = np.asarray(labels)
    if values.ndim == 2:
        raise UserError(
            "Images have several labels; this score needs one label per image.",
            "Leave the score out; logme supports several labels.",
        )
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise UserError(
            f"labels are {values.dtype} of shape {values.shape}; they must be integers, [N]."
        )
    present, renumbered = np.unique(values, return_inverse=True)
    return renumbered, len(present)
