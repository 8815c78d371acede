"""Means with intervals: over seeds, of paired differences, by bootstrap, and of two samples."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

Floats = NDArray[np.float64]
Condition = tuple[str, ...]  # everything but the seed that identifies a number, e.g. (target, eps)


@dataclass(frozen=True)
class SeedMean:
    """Mean over `num_seeds` runs that differ only in their seed.

    Attributes:
        sd: sample standard deviation over seeds; None for one run.
    """

    mean: float
    sd: float | None
    num_seeds: int

    @property
    def half_width(self) -> float | None:
        """Half the width of the 95 % t interval of the mean; None for one run."""
        if self.sd is None:
            return None
        return t_quantile_975(self.num_seeds - 1) * self.sd / math.sqrt(self.num_seeds)

    @property
    def is_clear(self) -> bool:
        """True if the interval excludes zero; False for one run."""
        return self.half_width is not None and abs(self.mean) > self.half_width


@dataclass(frozen=True)
class PairedDifference:
    """Setting minus baseline, averaged over `conditions` within each seed, then over seeds."""

    over_seeds: SeedMean
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if both bounds have the same sign."""
        return self.low > 0 or self.high < 0


def seed_mean(values: Iterable[float]) -> SeedMean:
    """Mean and sample standard deviation of at least one value."""
    numbers = list(values)
    return SeedMean(
        mean=statistics.fmean(numbers),
        sd=statistics.stdev(numbers) if len(numbers) > 1 else None,
        num_seeds=len(numbers),
    )


def paired_difference(
    values: Mapping[tuple[int, Condition], float],
    baseline: Mapping[tuple[int, Condition], float],
) -> PairedDifference | None:
    """Compute `values - baseline`, both keyed by (seed, condition).

    The seed is the unit of replication, so each seed contributes one number: its mean difference
    over the conditions (eps, targets). All seeds must cover the same conditions. These are the
    largest set that any seed has; seeds that lack a part of it are left out.

    Returns:
        None if no seed has the same condition on both sides.
    """
    by_seed: defaultdict[int, dict[Condition, float]] = defaultdict(dict)
    for (seed, condition), value in values.items():
        if (seed, condition) in baseline:
            by_seed[seed][condition] = value - baseline[seed, condition]
    if not by_seed:
        return None
    conditions = max(
        (tuple(sorted(differences)) for differences in by_seed.values()),
        key=lambda conditions: (len(conditions), conditions),
    )
    means = [
        statistics.fmean(differences[condition] for condition in conditions)
        for _, differences in sorted(by_seed.items())
        if set(conditions) <= set(differences)
    ]
    return PairedDifference(seed_mean(means), conditions)


def t_half_width(values: Floats) -> float | None:
    """Half the width of the 95 % t interval of the mean of values [n]; None if n is 1."""
    if len(values) < 2:
        return None
    return float(scipy_stats.t.ppf(0.975, len(values) - 1) * scipy_stats.sem(values))


def welch(scores: Floats, other_scores: Floats, confidence: float = 0.95) -> Interval | None:
    """Difference of the means of two sets of runs, with Welch's interval.

    Returns:
        None if one side has a single run.
    """
    if len(scores) < 2 or len(other_scores) < 2:
        return None
    difference = float(np.mean(scores) - np.mean(other_scores))
    if np.ptp(scores) == 0 and np.ptp(other_scores) == 0:  # scipy returns NaN
        return Interval(difference, difference, difference)
    interval = scipy_stats.ttest_ind(scores, other_scores, equal_var=False).confidence_interval(
        confidence
    )
    return Interval(difference, float(interval.low), float(interval.high))


def bootstrap(
    values: Floats, *, confidence: float = 0.95, num_draws: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of the mean of values [seeds, targets].

    Seeds and targets are resampled with replacement. For a difference of two settings pass the
    differences. An axis of length 1 is not resampled: the interval then ignores its variation.
    """
    values = np.asarray(values, np.float64)
    assert values.ndim == 2 and values.size
    random = np.random.default_rng(seed)
    num_seeds, num_targets = values.shape
    rows = random.integers(0, num_seeds, (num_draws, num_seeds))
    columns = random.integers(0, num_targets, (num_draws, num_targets))
    weights = [
        np.apply_along_axis(np.bincount, 1, drawn, minlength=size) / size
        for drawn, size in ((rows, num_seeds), (columns, num_targets))
    ]
    means = np.einsum("ks,sd,kd->k", weights[0], values, weights[1], optimize=True)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))


# 97.5 % quantiles of Student's t for 1 to 9 degrees of freedom. The series in t_quantile_975 is
# accurate to 4 digits from 10 degrees on.
_T_975 = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)
_Z_975 = 1.959963985


def t_quantile_975(degrees_of_freedom: int) -> float:
    """97.5 % quantile of Student's t.

    From 10 degrees of freedom on: Abramowitz and Stegun, equation 26.7.5.
    """
    assert degrees_of_freedom >= 1
    if degrees_of_freedom <= len(_T_975):
        return _T_975[degrees_of_freedom - 1]
    z, n = _Z_975, degrees_of_freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def is_near_chance(top1: float, num_answers: int | None, num_images: int) -> bool:
    """True if `top1` is at most three binomial standard errors above chance, 1 / num_answers."""
    if not num_answers or num_images < 1:
        return False
    chance = 1 / num_answers
    return top1 <= chance + 3 * math.sqrt(chance * (1 - chance) / num_images)


def sampling_error(top1: float, num_images: int) -> float:
    """1.96 standard errors of the difference of two accuracies near `top1` on num_images each.

    Assumes independent images. Two models evaluated on the same images differ by less if they
    make the same errors.
    """
    return _Z_975 * math.sqrt(2 * top1 * (1 - top1) / num_images) if num_images else 1.0
