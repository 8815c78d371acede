"""Statistics of transfer studies: averages of logits, paired tests from stored predictions, what a cheap score predicts.

After Kornblith, Shlens and Le 2019 (section 3 and A.1) where nothing else is said. Shapes: M models, D datasets, N images.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import signal as scipy_signal
from scipy import stats as scipy_stats

Array = np.ndarray
NUM_PERMUTATIONS = 10_000


def logit(accuracy: ArrayLike, num_images: ArrayLike) -> Array:
    """log(p / (1 - p)), p first brought into [1 / 2n, 1 - 1 / 2n] so that 0 and 1 stay finite."""
    margin = 0.5 / np.asarray(num_images, np.float64)
    share = np.clip(np.asarray(accuracy, np.float64), margin, 1 - margin)
    return np.log(share / (1 - share))


@dataclass(frozen=True)
class Means:
    """Of each model over the datasets, on the scale of the scores: arrays [M]."""

    mean: Array
    standard_error: Array


def dataset_adjusted(scores: Array) -> Means:
    """Means over datasets of scores [M, D], and errors that leave out how hard each dataset is (Morey 2008).

    Each dataset's mean over models is subtracted; the standard error of what is left is widened by sqrt(M / (M - 1)).
    """
    num_models, num_datasets = scores.shape
    if num_models < 2 or num_datasets < 2:
        return Means(scores.mean(axis=1), np.full(num_models, np.nan))
    adjusted = scores - scores.mean(axis=0)
    error = adjusted.std(axis=1, ddof=1) / math.sqrt(num_datasets)
    return Means(scores.mean(axis=1), error * math.sqrt(num_models / (num_models - 1)))


@dataclass(frozen=True)
class Correlation:
    """Pearson's r with its 95 % interval by Fisher's transform, and Spearman's rho; NaN where they have no value."""

    r: float
    low: float
    high: float
    rho: float
    num_points: int


def correlation(x: Array, y: Array) -> Correlation:
    """Of two measures of the same models, [M] each."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(math.nan, math.nan, math.nan, math.nan, len(x))
    r = scipy_stats.pearsonr(x, y)
    interval = r.confidence_interval() if len(x) > 3 else (math.nan, math.nan)
    return Correlation(
        float(r.statistic),
        float(interval[0]),
        float(interval[1]),
        float(scipy_stats.spearmanr(x, y).statistic),
        len(x),
    )


def weighted_kendall(score: Array, accuracy: Array) -> float:
    """Agreement of two rankings of models [M], in which an exchange near the top weighs more (hyperbolic, scipy's default)."""
    return float(scipy_stats.weightedtau(score, accuracy).statistic)


def recall_at(k: int, score: Array, accuracy: Array) -> float:
    """The share of the k best models by accuracy [M] that are among the k best by score. Ties: the earlier model."""
    best_by_score, best = (
        set(np.argsort(-np.asarray(values), kind="stable")[:k].tolist())
        for values in (score, accuracy)
    )
    return len(best_by_score & best) / len(best)


def relative_accuracy_at(k: int, score: Array, accuracy: Array) -> float:
    """The best accuracy among the k best models by score, as a share of the best of all (Li et al. 2021, Rel@k)."""
    chosen = np.argsort(-np.asarray(score), kind="stable")[:k]
    return float(np.max(np.asarray(accuracy)[chosen]) / np.max(accuracy))


def times_in_top(k: int, scores: Array) -> Array:
    """On how many datasets each model is among the k best: int [M] of scores [M, D]. Models that tie for place k all count;
    NaN (not measured) never does.
    """
    threshold = np.sort(np.where(np.isnan(scores), -np.inf, scores), axis=0)[::-1][
        min(k, len(scores)) - 1
    ]
    return (scores >= threshold).sum(axis=1)


# Tests. All two-sided; NaN where there is nothing to test.


def mcnemar(correct: Array, other_correct: Array) -> float:
    """p of "both models are right equally often" from what each got right, bool [N]: exact, binomial on the disagreements."""
    only, other_only = int((correct & ~other_correct).sum()), int((~correct & other_correct).sum())
    if only + other_only == 0:
        return 1.0
    return float(scipy_stats.binomtest(only, only + other_only).pvalue)


def exchange_test(differences: Array) -> float:
    """p of "the models are interchangeable on every image": exact, all exchanges counted.

    differences: int [N], how many of the first model's seeds are right on an image minus how many of the second's. With one
    seed this is McNemar's exact test; with more, the runs of an image are exchanged together. The sum of +-k over the images
    with |difference| k is a scaled binomial; their distributions are convolved.
    """
    sizes = np.bincount(np.abs(np.asarray(differences, np.int64)))
    chances = np.ones(1)
    for size, count in enumerate(sizes):
        if size and count:
            steps = np.zeros(2 * size * count + 1)
            steps[:: 2 * size] = scipy_stats.binom.pmf(np.arange(count + 1), count, 0.5)
            chances = (
                scipy_signal.fftconvolve(chances, steps)
                if min(len(chances), len(steps)) > 500
                else np.convolve(chances, steps)
            )
    middle = len(chances) // 2
    distance = abs(int(np.sum(differences)))
    if distance == 0:
        return 1.0
    return float(
        np.clip(chances[middle + distance :].sum() + chances[: middle - distance + 1].sum(), 0, 1)
    )


def sign_flip_test(
    differences: Array, *, seed: int = 0, num_permutations: int = NUM_PERMUTATIONS
) -> float:
    """p of "the models are interchangeable on every image" for a mean with weights, such as mean per class.

    differences: float [N], each image's difference times its weight (1 / images of its class); an exchange turns its sign.
    `permutation_test` is the slow twin that serves any metric.
    """
    weights = np.asarray(differences, np.float32)
    weights = weights[weights != 0]
    if not len(weights):
        return 1.0
    random = np.random.default_rng(seed)
    given = abs(float(weights.sum(dtype=np.float64)))
    as_extreme = 0
    for start in range(0, num_permutations, 500):
        number = min(500, num_permutations - start)
        bits = np.unpackbits(
            random.integers(0, 256, (number, -(-len(weights) // 8)), np.uint8),
            axis=1,
            count=len(weights),
        )
        sums = (2 * bits.astype(np.float32) - 1) @ weights
        as_extreme += int((np.abs(sums) >= given * (1 - 1e-5)).sum())
    return (as_extreme + 1) / (num_permutations + 1)


def permutation_test(
    metric: Callable[[Array], float],
    predictions: Array,
    other_predictions: Array,
    *,
    seed: int = 0,
    num_permutations: int = NUM_PERMUTATIONS,
) -> float:
    """p of "the models are interchangeable" for any metric of the predictions [N, ...], e.g. mean per class or mAP.

    Each permutation exchanges the two models' predictions for a random half of the images. The given assignment counts as
    one, so p is never 0.
    """
    random = np.random.default_rng(seed)
    given = abs(metric(predictions) - metric(other_predictions))
    shape = (-1,) + (1,) * (predictions.ndim - 1)
    as_extreme = 0
    for _ in range(num_permutations):
        exchanged = (random.random(len(predictions)) < 0.5).reshape(shape)
        first = np.where(exchanged, other_predictions, predictions)
        second = np.where(exchanged, predictions, other_predictions)
        as_extreme += abs(metric(first) - metric(second)) >= given - 1e-12
    return (as_extreme + 1) / (num_permutations + 1)


def map11_permutation_test(
    scores: Array,
    other_scores: Array,
    labels: Array,
    *,
    seed: int = 0,
    num_permutations: int = 1000,
) -> tuple[float, float]:
    """Difference of 11-point mAP of two models, and the p of `permutation_test` for it, sorting only once.

    scores, other_scores: float [N, K], finite; labels: [N, K], 1 there, 0 difficult (left out), -1 not. With a permutation, an
    image's scores of all classes change sides together. Images of equal score count together.
    """
    classes = []
    for label in np.flatnonzero((labels == 1).any(axis=0)):
        sure = np.flatnonzero(labels[:, label] != 0)
        both = np.concatenate([scores[sure, label], other_scores[sure, label]])
        order = np.argsort(-both, kind="stable")
        positive = (labels[sure, label] == 1)[order % len(sure)]
        classes.append((sure[order % len(sure)], order >= len(sure), both[order], positive))

    def difference(exchanged: Array) -> float:
        return float(
            np.mean(
                [
                    _ap11(values, positive, mine) - _ap11(values, positive, ~mine)
                    for image, other, values, positive in classes
                    for mine in (exchanged[image] == other,)
                ]
            )
        )

    random = np.random.default_rng(seed)
    given = difference(np.zeros(len(labels), bool))
    as_extreme = sum(
        abs(difference(random.random(len(labels)) < 0.5)) >= abs(given) - 1e-12
        for _ in range(num_permutations)
    )
    return given, (as_extreme + 1) / (num_permutations + 1)


def _ap11(values: Array, positive: Array, mine: Array) -> float:
    """Eleven-point average precision of the entries `mine` of a list that is sorted by value, highest first."""
    values, positive = values[mine], positive[mine]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    num_true = positive.cumsum()[last]
    best_from = np.maximum.accumulate((num_true / (last + 1))[::-1])[
        ::-1
    ]  # highest precision at this recall or more
    reached = np.searchsorted(
        10 * num_true, np.arange(11) * num_true[-1]
    )  # in integers: in floats 3/10 < 3 * 0.1
    return float(best_from[reached].mean())


def paired_t_test(scores: Array, other_scores: Array) -> float:
    """p of "equal means over datasets" for two models' scores [D], best on the logit scale."""
    difference = np.asarray(scores) - np.asarray(other_scores)
    if len(difference) < 2 or np.ptp(difference) == 0:
        return math.nan
    return float(scipy_stats.ttest_rel(scores, other_scores).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for as many tests as there are (Holm 1979), in their order. NaN is no test and stays NaN."""
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
class Interval:
    """A mean and its interval."""

    mean: float
    low: float
    high: float

    @property
    def leaves_out_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap(
    values: Array, *, share: float = 0.95, num_draws: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of values [seeds, D], resampled over seeds and over datasets, each with replacement (percentile interval).

    For a difference of two settings give the differences. With one seed (or dataset) that side is not resampled, and the
    interval says nothing about it.
    """
    values = np.asarray(values, np.float64)
    assert values.ndim == 2 and values.size
    random = np.random.default_rng(seed)
    num_seeds, num_datasets = values.shape
    rows = random.integers(0, num_seeds, (num_draws, num_seeds))
    columns = random.integers(0, num_datasets, (num_draws, num_datasets))
    weights = [
        np.apply_along_axis(np.bincount, 1, drawn, minlength=size) / size
        for drawn, size in ((rows, num_seeds), (columns, num_datasets))
    ]
    means = np.einsum("ks,sd,kd->k", weights[0], values, weights[1], optimize=True)
    low, high = np.quantile(means, [(1 - share) / 2, (1 + share) / 2])
    return Interval(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Signs:
    """In how many pairs the first was better, equal, worse; p of the sign test, ties left out."""

    wins: int
    ties: int
    losses: int
    p: float

    def __str__(self) -> str:
        return f"{self.wins} of {self.wins + self.ties + self.losses}"


def sign_table(first: Array, second: Array) -> Signs:
    """Of two methods' scores for the same (dataset, model) pairs: "fine-tuning beat fixed features in 179 of 192"."""
    difference = np.sign(np.asarray(first) - np.asarray(second))
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    p = float(scipy_stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return Signs(wins, len(difference) - wins - losses, losses, p)


def welch(scores: Array, other_scores: Array, share: float = 0.95) -> Interval | None:
    """Difference of means of two sets of runs, with Welch's interval; None where a side has one run: nothing was repeated."""
    if len(scores) < 2 or len(other_scores) < 2:
        return None
    difference = float(np.mean(scores) - np.mean(other_scores))
    if np.ptp(scores) == 0 and np.ptp(other_scores) == 0:  # of which scipy makes NaN
        return Interval(difference, difference, difference)
    interval = scipy_stats.ttest_ind(scores, other_scores, equal_var=False).confidence_interval(
        share
    )
    return Interval(difference, float(interval.low), float(interval.high))
