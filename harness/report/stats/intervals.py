"""Compute means with intervals: over seeds, of paired differences, and of two samples.

`harness bench statistics` measures how often these intervals cover the true value. If all values of
a sample are equal, their spread of zero does not estimate the true spread: accuracies are counts,
so two runs are often exactly equal. Such samples have no interval. Bootstrap intervals are not
used, because over a few seeds or targets they include the true value too rarely.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
MIN_SPREAD = 1e-9  # a smaller standard deviation is a rounding error of equal numbers
Condition = tuple[str, ...]  # values of all axes but the seed, e.g. (target, eps)


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
        """Half the width of the 95 % t interval of the mean; None for one run or equal runs."""
        if self.sd is None or self.sd < MIN_SPREAD:
            return None
        return t_quantile_975(self.num_seeds - 1) * self.sd / math.sqrt(self.num_seeds)

    @property
    def is_clear(self) -> bool:
        """True if the interval excludes zero; False without an interval."""
        return self.half_width is not None and abs(self.mean) > self.half_width


@dataclass(frozen=True)
class PairedDifference:
    """Setting minus baseline, averaged over `conditions` within each seed, then over seeds.

    Attributes:
        by_seed: the differences of the seeds that cover all conditions.
    """

    over_seeds: SeedMean
    conditions: tuple[Condition, ...]
    by_seed: tuple[float, ...]


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
    over the conditions (eps, targets). All seeds must cover the same conditions: the largest set
    that any seed has. Seeds that lack a part of this set are left out.

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
    return PairedDifference(seed_mean(means), conditions, tuple(means))


def t_half_width(values: Floats) -> float | None:
    """Return half the width of the 95 % t interval of the mean of values [n].

    Returns:
        None if n is 1, or if the values are equal.
    """
    if len(values) < 2 or (sd := float(np.std(values, ddof=1))) < MIN_SPREAD:
        return None
    return float(special.stdtrit(len(values) - 1, 0.975)) * sd / math.sqrt(len(values))


def welch(scores: Floats, other_scores: Floats, confidence: float = 0.95) -> Interval | None:
    """Compute the difference of the means of two independent sets of scores [n], with a t interval.

    The standard error is Welch's. For sets of equal size, the degrees of freedom are also Welch's.
    For sets of unequal size, they are those of the smaller set: with Welch's, intervals include the
    true value too rarely if the smaller set varies more. The interval covers the difference with a
    probability of `confidence`.

    Returns:
        None if one set has a single run, or if the runs within each set are all equal.
    """
    sides = scores, other_scores
    if min(map(len, sides)) < 2 or max(np.std(side) for side in sides) < MIN_SPREAD:
        return None
    errors = [float(np.var(side, ddof=1)) / len(side) for side in sides]
    if len(scores) == len(other_scores):
        degrees = (len(scores) - 1) * sum(errors) ** 2 / sum(error**2 for error in errors)
    else:
        degrees = min(map(len, sides)) - 1
    difference = float(np.mean(scores) - np.mean(other_scores))
    quantile = float(special.stdtrit(degrees, (1 + confidence) / 2))
    half = quantile * math.sqrt(sum(errors))
    return Interval(difference, difference - half, difference + half)


# 97.5 % quantiles of Student's t for 1 to 9 degrees of freedom. The series in t_quantile_975 is
# accurate to 4 digits from 10 degrees on.
_T_975 = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)
_Z_975 = 1.959963985


def t_quantile_975(degrees_of_freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t.

    From 10 degrees of freedom on, it is computed by equation 26.7.5 of Abramowitz and Stegun.
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
    """True if `top1` is at most three binomial standard errors above chance, 1 / num_answers.

    False if chance is unknown (`num_answers` is None).
    """
    if not num_answers or num_images < 1:
        return False
    chance = 1 / num_answers
    return top1 <= chance + 3 * math.sqrt(chance * (1 - chance) / num_images)


def wilson_interval(fraction: float, num_images: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion of independent images (Wilson 1927)."""
    squared = _Z_975**2
    center = (fraction + squared / (2 * num_images)) / (1 + squared / num_images)
    half = (
        _Z_975
        / (1 + squared / num_images)
        * math.sqrt(fraction * (1 - fraction) / num_images + squared / (4 * num_images**2))
    )
    return max(center - half, 0.0), min(center + half, 1.0)


def sampling_error(top1: float, num_images: int) -> float:
    """Return 1.96 standard errors of the difference of two accuracies near `top1`.

    Each accuracy is measured on `num_images` independent images; without images, the result is 1.
    Two models on the same images differ by less if they make the same errors.
    """
    return _Z_975 * math.sqrt(2 * top1 * (1 - top1) / num_images) if num_images else 1.0
