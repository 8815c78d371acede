"""Two-sided tests: paired by image, by target or by run, and Holm's adjustment.

After Kornblith, Shlens and Le 2019 (appendix A.1) unless stated otherwise. p is NaN if nothing
can be tested. Shapes: N images, K classes, D datasets.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal as scipy_signal
from scipy import special
from scipy import stats as scipy_stats

from harness.report.stats.intervals import MIN_SPREAD

Array = NDArray[np.generic]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
NUM_PERMUTATIONS = 10_000


def mcnemar(correct: Bools, other_correct: Bools) -> float:
    """Compute p of "both models are right equally often": McNemar's exact test.

    Args:
        correct: bool [N], images that the first model classifies correctly.
        other_correct: bool [N], likewise for the second.
    """
    only, other_only = int((correct & ~other_correct).sum()), int((~correct & other_correct).sum())
    if only + other_only == 0:
        return 1.0
    return float(scipy_stats.binomtest(only, only + other_only).pvalue)


def exchange_test(differences: Integers) -> float:
    """Compute p of "the models are interchangeable on every image", exact over all exchanges.

    With one seed this is McNemar's exact test. With more, the runs of an image are exchanged
    together. The sum of +-k over the images with |difference| k is a scaled binomial; the
    distributions are convolved.

    Args:
        differences: int64 [N], for each image the number of the first model's seeds that are
            right minus that of the second's.
    """
    sizes = np.bincount(np.abs(np.asarray(differences, np.int64)))
    distribution = np.ones(1)
    for size, count in enumerate(sizes):
        if size and count:
            steps = np.zeros(2 * size * count + 1)
            steps[:: 2 * size] = scipy_stats.binom.pmf(np.arange(count + 1), count, 0.5)
            distribution = (
                scipy_signal.fftconvolve(distribution, steps)
                if min(len(distribution), len(steps)) > 500
                else np.convolve(distribution, steps)
            )
    middle = len(distribution) // 2
    distance = abs(int(np.sum(differences)))
    if distance == 0:
        return 1.0
    tails = distribution[middle + distance :].sum() + distribution[: middle - distance + 1].sum()
    return float(np.clip(tails, 0, 1))


def sign_flip_test(
    differences: Floats, *, seed: int = 0, num_permutations: int = NUM_PERMUTATIONS
) -> float:
    """Compute p of "the models are interchangeable on every image" for a weighted mean.

    An exchange flips the sign of an image's difference. `permutation_test` is the slow twin that
    accepts any metric.

    Args:
        differences: float64 [N], each image's difference times its weight. For mean per class the
            weight is 1 / images of the class.
        seed: of the random permutations.
        num_permutations: number of permutations.
    """
    weights = np.asarray(differences, np.float32)
    weights = weights[weights != 0]
    if not len(weights):
        return 1.0
    random = np.random.default_rng(seed)
    observed = abs(float(weights.sum(dtype=np.float64)))
    num_extreme = 0
    for start in range(0, num_permutations, 500):
        number = min(500, num_permutations - start)
        bits = np.unpackbits(
            random.integers(0, 256, (number, -(-len(weights) // 8)), np.uint8),
            axis=1,
            count=len(weights),
        )
        sums = (2 * bits.astype(np.float32) - 1) @ weights
        num_extreme += int((np.abs(sums) >= observed * (1 - 1e-5)).sum())
    return (num_extreme + 1) / (num_permutations + 1)


def permutation_test(
    metric: Callable[[Array], float],
    predictions: Array,
    other_predictions: Array,
    *,
    seed: int = 0,
    num_permutations: int = NUM_PERMUTATIONS,
) -> float:
    """Compute p of "the models are interchangeable" for any metric of the predictions, e.g. mAP.

    Each permutation exchanges the two models' predictions for a random half of the images. The
    observed assignment counts as one permutation, so p is never 0.

    Args:
        metric: maps predictions [N, ...] to a number.
        predictions: [N, ...], of the first model.
        other_predictions: likewise of the second.
        seed: of the random permutations.
        num_permutations: number of permutations.
    """
    random = np.random.default_rng(seed)
    observed = abs(metric(predictions) - metric(other_predictions))
    shape = (-1,) + (1,) * (predictions.ndim - 1)
    num_extreme = 0
    for _ in range(num_permutations):
        exchanged = (random.random(len(predictions)) < 0.5).reshape(shape)
        first = np.where(exchanged, other_predictions, predictions)
        second = np.where(exchanged, predictions, other_predictions)
        num_extreme += abs(metric(first) - metric(second)) >= observed - 1e-12
    return (num_extreme + 1) / (num_permutations + 1)


def map11_permutation_test(
    scores: Floats,
    other_scores: Floats,
    labels: Integers,
    *,
    seed: int = 0,
    num_permutations: int = 1000,
) -> tuple[float, float]:
    """`permutation_test` for 11-point mAP, with one sort per class instead of one per permutation.

    An image's scores of all classes are exchanged together. Images with equal scores share a
    threshold.

    Args:
        scores: float [N, K], finite, of the first model.
        other_scores: likewise of the second.
        labels: integers [N, K]: 1 present, 0 difficult (ignored), -1 absent.
        seed: of the random permutations.
        num_permutations: number of permutations.

    Returns:
        The difference of the two mAPs, and p.
    """
    classes = []
    for label in np.flatnonzero((labels == 1).any(axis=0)):
        sure = np.flatnonzero(labels[:, label] != 0)
        both = np.concatenate([scores[sure, label], other_scores[sure, label]])
        order = np.argsort(-both, kind="stable")
        positive = (labels[sure, label] == 1)[order % len(sure)]
        classes.append((sure[order % len(sure)], order >= len(sure), both[order], positive))

    def difference(exchanged: Bools) -> float:
        return float(
            np.mean(
                [
                    _ap11(values, positive, is_first) - _ap11(values, positive, ~is_first)
                    for image, is_second, values, positive in classes
                    for is_first in (exchanged[image] == is_second,)
                ]
            )
        )

    random = np.random.default_rng(seed)
    observed = difference(np.zeros(len(labels), bool))
    num_extreme = sum(
        abs(difference(random.random(len(labels)) < 0.5)) >= abs(observed) - 1e-12
        for _ in range(num_permutations)
    )
    return observed, (num_extreme + 1) / (num_permutations + 1)


def _ap11(values: Floats, positive: Bools, selected: Bools) -> float:
    """11-point average precision of the `selected` entries of a list sorted by decreasing value."""
    values, positive = values[selected], positive[selected]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    num_true = positive.cumsum()[last]
    # Highest precision at each recall or above.
    max_precision = np.maximum.accumulate((num_true / (last + 1))[::-1])[::-1]
    # Integers: in floats, 3 / 10 < 3 * 0.1.
    reached = np.searchsorted(10 * num_true, np.arange(11) * num_true[-1])
    return float(max_precision[reached].mean())


def one_sample_t_test(differences: Floats) -> float:
    """Compute p of "the mean difference is zero" from the differences [n] of independent units.

    NaN for one unit, and if all differences are equal: their spread is then unknown.
    """
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2 or (sd := float(np.std(differences, ddof=1))) < MIN_SPREAD:
        return math.nan
    t = float(differences.mean()) / (sd / math.sqrt(len(differences)))
    return 2 * float(special.stdtr(len(differences) - 1, -abs(t)))


def paired_t_test(scores: Floats, other_scores: Floats) -> float:
    """Compute p of "equal means over datasets" for two models' scores [D], preferably logits."""
    return one_sample_t_test(np.asarray(scores) - np.asarray(other_scores))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of tests (Holm 1979), in the same order.

    NaN is not counted as a test and stays NaN.
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted(
        (index for index, p in enumerate(p_values) if not math.isnan(p)),
        key=lambda index: p_values[index],
    )
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class SignTest:
    """Number of pairs in which the first was better, equal and worse.

    Attributes:
        p: of the sign test, ties ignored; 1 if all pairs tie.
    """

    wins: int
    ties: int
    losses: int
    p: float

    def __str__(self) -> str:
        """Return e.g. `179 of 192`."""
        return f"{self.wins} of {self.wins + self.ties + self.losses}"


def sign_test(first: Floats, second: Floats) -> SignTest:
    """Compare two methods' scores for the same pairs, e.g. of (dataset, model)."""
    difference = np.sign(np.asarray(first) - np.asarray(second))
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    p = float(scipy_stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return SignTest(wins, len(difference) - wins - losses, losses, p)
