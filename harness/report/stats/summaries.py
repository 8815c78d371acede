"""Summarize many models on many datasets: mean logits, correlations, agreement of rankings.

The methods follow Kornblith, Shlens and Le 2019 (section 3, appendix A.1) unless stated otherwise.
Shapes: M models, D datasets.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_PAIR_ROWS = 512  # rows of a matrix over pairs of models that are in memory at a time


def logit(accuracy: ArrayLike, num_images: ArrayLike) -> Floats:
    """Return log(p / (1 - p)), with p clipped to [1 / 2n, 1 - 1 / 2n] to be finite for 0 and 1."""
    margin = 0.5 / np.asarray(num_images, np.float64)
    fraction = np.clip(np.asarray(accuracy, np.float64), margin, 1 - margin)
    logits: Floats = np.log(fraction / (1 - fraction))
    return logits


@dataclass(frozen=True)
class DatasetMeans:
    """Means of each model over the datasets, on the scale of the scores: arrays [M]."""

    mean: Floats
    standard_error: Floats


def dataset_adjusted_means(scores: Floats) -> DatasetMeans:
    """Average scores [M, D] over datasets, with standard errors.

    The errors exclude differences in difficulty between datasets: each dataset's mean over models
    is subtracted, and the standard error of these differences is multiplied by sqrt(M / (M - 1))
    (Morey 2008). The errors are NaN for a single model or dataset.
    """
    num_models, num_datasets = scores.shape
    if num_models < 2 or num_datasets < 2:
        return DatasetMeans(scores.mean(axis=1), np.full(num_models, np.nan))
    adjusted = scores - scores.mean(axis=0)
    error = adjusted.std(axis=1, ddof=1) / math.sqrt(num_datasets)
    return DatasetMeans(scores.mean(axis=1), error * math.sqrt(num_models / (num_models - 1)))


@dataclass(frozen=True)
class Correlation:
    """Pearson's r with its 95 % interval (Fisher's transform), and Spearman's rho.

    Values are NaN if they are undefined.
    """

    r: float
    low: float
    high: float
    rho: float
    num_points: int


def correlation(x: Floats, y: Floats) -> Correlation:
    """Correlate two measures [M] of the same models."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(math.nan, math.nan, math.nan, math.nan, len(x))
    from scipy import stats as scipy_stats  # takes longer to import than a small report

    r = scipy_stats.pearsonr(x, y)
    interval = r.confidence_interval() if len(x) > 3 else (math.nan, math.nan)
    return Correlation(
        float(r.statistic),
        float(interval[0]),
        float(interval[1]),
        float(scipy_stats.spearmanr(x, y).statistic),
        len(x),
    )


def partial_correlation(x: Floats, y: Floats, given: Floats) -> float:
    """Correlate x and y [M] (Pearson) after subtracting a linear fit on `given` from both.

    Returns:
        The correlation; NaN if x or y is constant, or linear in `given`. If `given` is constant, it
        is the correlation of x and y.
    """
    residuals = []
    for values in (x, y):
        design = np.column_stack([np.ones(len(given)), given])
        fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        residual = values - fitted
        if np.linalg.norm(residual) <= 1e-9 * np.linalg.norm(values - values.mean()) or not np.ptp(
            values
        ):
            return math.nan
        residuals.append(residual)
    first, second = residuals
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def weighted_kendall(score: Floats, accuracy: Floats) -> float:
    """Weighted Kendall's tau of two rankings of models [M] (hyperbolic weights, scipy's default).

    Disagreements near the top of the rankings weigh more.
    """
    from scipy import stats as scipy_stats  # takes longer to import than a small report

    return float(scipy_stats.weightedtau(score, accuracy).statistic)


def weighted_kendall_without(score: Floats, accuracy: Floats, groups: Integers) -> Floats:
    """Compute `weighted_kendall` without each group of models in turn.

    The weight of a pair is the sum of two models' weights. A weighted sum over pairs is therefore a
    dot product of the models' weights with row sums of a matrix over pairs. All groups share this
    matrix, and its row sums are integers.

    Args:
        score: float64 [M], finite.
        accuracy: float64 [M], finite.
        groups: int64 [M], from 0 to G - 1.

    Returns:
        float64 [G]; NaN if one of the two rankings is constant without the group.
    """
    kept = groups[:, None] != np.arange(groups.max() + 1)
    agreeing = _agreements_without(score, accuracy, groups)
    distinct = [_num_distinct_without(values, groups) for values in (score, accuracy)]
    found = []
    for first, second in ((score, accuracy), (accuracy, score)):  # scipy averages both orders
        order = np.lexsort((second, first))[::-1]
        weight = np.zeros(kept.shape)
        weight[order] = kept[order] / np.maximum(np.cumsum(kept[order], axis=0), 1)
        scale = np.sqrt(np.prod([(weight * sums).sum(axis=0) for sums in distinct], axis=0))
        with np.errstate(invalid="ignore"):
            found.append((weight * agreeing).sum(axis=0) / scale)
    without: Floats = np.mean(found, axis=0)
    return without


def _agreements_without(first: Floats, second: Floats, groups: Integers) -> Integers:
    """Count each model's concordant minus discordant partners, leaving out each group in turn.

    Args:
        first: float64 [M].
        second: float64 [M].
        groups: int64 [M], from 0 to G - 1.

    Returns:
        int64 [M, G].
    """
    by_group = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[by_group], np.arange(groups.max() + 1))
    is_empty = np.bincount(groups) == 0
    # Comparisons of small integers are several times as fast as those of floats.
    ranks = [
        np.unique(values, return_inverse=True)[1].astype(np.int32) for values in (first, second)
    ]
    agreeing = np.empty((len(first), len(starts)), np.int64)
    for start in range(0, len(first), _PAIR_ROWS):
        rows = slice(start, start + _PAIR_ROWS)
        product = np.ones((), np.int8)
        for values in ranks:
            columns = values[by_group, None]  # transposed, because sums over axis 0 are faster
            above, below = columns < values[rows], columns > values[rows]
            product = product * (above.view(np.int8) - below.view(np.int8))
        of_group = np.add.reduceat(product, starts, axis=0, dtype=np.int32)
        of_group[is_empty] = 0  # for empty groups, reduceat returns the next row
        agreeing[rows] = (of_group.sum(axis=0) - of_group).T
    return agreeing


def _num_distinct_without(values: Floats, groups: Integers) -> Integers:
    """Count the models whose value differs from each model's, leaving out each group in turn.

    Shapes as in `_agreements_without`.
    """
    places, num_groups = np.unique(values, return_inverse=True)[1], int(groups.max()) + 1
    equal = np.zeros((int(places.max()) + 1, num_groups), np.int64)
    np.add.at(equal, (places, groups), 1)
    distinct = equal.sum(axis=0) - equal
    differing: Integers = (distinct.sum(axis=1, keepdims=True) - distinct)[places]
    return differing


def recall_at(k: int, score: Floats, accuracy: Floats) -> float:
    """Return the fraction of the k best models by accuracy [M] that are among the k best by score.

    Ties are broken in favor of the earlier model.
    """
    best_by_score, best = (
        set(np.argsort(-np.asarray(values), kind="stable")[:k].tolist())
        for values in (score, accuracy)
    )
    return len(best_by_score & best) / len(best)


def relative_accuracy_at(k: int, score: Floats, accuracy: Floats) -> float:
    """Return the best accuracy of the k best models by score, divided by the best of all models.

    This is Rel@k of Li et al. 2021, from scores and accuracies [M]. It is 1 if no model has an
    accuracy above 0.
    """
    best = float(np.max(accuracy))
    chosen = np.argsort(-np.asarray(score), kind="stable")[:k]
    return float(np.max(np.asarray(accuracy)[chosen])) / best if best else 1.0


def times_in_top(k: int, scores: Floats) -> Integers:
    """Count the datasets on which each model is among the k best: int64 [M] from scores [M, D].

    Models that tie for place k all count. NaN (not measured) never counts.
    """
    threshold = np.sort(np.where(np.isnan(scores), -np.inf, scores), axis=0)[::-1][
        min(k, len(scores)) - 1
    ]
    counts: Integers = (scores >= threshold).sum(axis=1)
    return counts
