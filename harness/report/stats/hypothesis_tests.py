"""Two-sided tests: paired by image, by target or by run, and Holm's adjustment.

The tests follow Kornblith, Shlens and Le 2019 (appendix A.1) unless stated otherwise. If no pair
differs, p is 1; only the t-test then has no p (NaN). Shapes: N images, K classes, D datasets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.report.stats.intervals import MIN_SPREAD

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_MAX_LOG2_ATOMS = 20  # up to 2**20 combinations of sums are enumerated
_CIRCLE = 2**17  # number of integers that rounded sums are mapped to, and length of the FFT


def mcnemar(correct: Bools, other_correct: Bools) -> float:
    """Compute p of "both models are right equally often": McNemar's exact test.

    Args:
        correct: bool [N], images that the first model classifies correctly.
        other_correct: bool [N], images that the second model classifies correctly.
    """
    only, other_only = int((correct & ~other_correct).sum()), int((~correct & other_correct).sum())
    if only + other_only == 0:
        return 1.0
    return _fair_coin_test(only, other_only)


def exchange_test(differences: Integers) -> float:
    """Compute p of "the models are interchangeable on every image", exact over all exchanges.

    With one seed this is McNemar's exact test. With several seeds, all runs on an image are
    exchanged together. The sum of +-k over the images with |difference| k is a scaled binomial; the
    distributions for all k are convolved.

    Args:
        differences: int64 [N], for each image the number of seeds with which the first model is
            right, minus the number with which the second model is right.
    """
    sizes = np.bincount(np.abs(np.asarray(differences, np.int64)))
    distribution = np.ones(1)
    for size, count in enumerate(sizes):
        if size and count:
            steps = np.zeros(2 * size * count + 1)
            steps[:: 2 * size] = _fair_coin_masses(count)
            distribution = _convolved(distribution, steps)
    middle = len(distribution) // 2
    distance = abs(int(np.sum(differences)))
    if distance == 0:
        return 1.0
    tails = distribution[middle + distance :].sum() + distribution[: middle - distance + 1].sum()
    return float(np.clip(tails, 0, 1))


def sign_flip_test(differences: Floats) -> float:
    """Compute p of "the models are interchangeable on every image" for a weighted mean.

    An exchange flips the sign of an image's difference. The sum over images of equal weight is a
    scaled binomial. If these sums have few combinations, p is exact. Otherwise the weights are
    rounded, and p is exact for the rounded weights. They are rounded to multiples of about 1 / 5000
    of the sum's standard deviation or finer; coarser only if the sum is beyond 11 standard
    deviations, where p is tiny.

    Args:
        differences: float64 [N], each image's difference times its weight. For the mean accuracy
            per class, weights are proportional to 1 / number of images of the class.
    """
    differences = np.asarray(differences, np.float64)
    differences = differences[differences != 0]
    observed, total = abs(float(differences.sum())), float(np.abs(differences).sum())
    if observed <= 1e-12 * total:
        return 1.0
    # Treat weights that differ by rounding errors as equal.
    ordered = np.sort(np.abs(differences))
    starts = np.flatnonzero(np.append(True, np.diff(ordered) > 1e-12 * ordered[1:]))
    weights, counts = ordered[starts], np.diff(np.append(starts, len(ordered)))
    if np.log2(counts + 1.0).sum() <= _MAX_LOG2_ATOMS:
        sums, masses = np.zeros(1), np.ones(1)
        for weight, count in zip(weights.tolist(), counts.tolist(), strict=True):
            steps = np.arange(-count, count + 1, 2)
            sums = np.add.outer(sums, weight * steps).ravel()
            masses = np.outer(masses, _fair_coin_masses(count)).ravel()
        return float(min(1, masses[np.abs(sums) >= observed - 1e-12 * total].sum()))
    return _rounded_sign_flip_test(differences, weights, counts, observed)


def _rounded_sign_flip_test(
    differences: Floats, weights: Floats, counts: Integers, observed: float
) -> float:
    """Compute p from the distribution of the rounded sum modulo _CIRCLE.

    The distribution is the Fourier transform of the characteristic function, which is a product
    over images.

    Args:
        differences: float64 [N], without zeros.
        weights: float64 [G], distinct absolute values of the differences.
        counts: int64 [G], images of each weight.
        observed: absolute value of the sum of the differences.
    """
    sd = math.sqrt(float((counts * weights**2).sum()))
    # Fewer than 2e-31 of the sums are beyond 12 standard deviations (Hoeffding 1963).
    reach = min(float((counts * weights).sum()), max(12 * sd, 1.1 * observed))
    size = _CIRCLE
    unit = 2 * reach / (size - 2 * len(counts) - 2)
    rounded = np.maximum(1, np.rint(weights / unit).astype(np.int64))
    angle = 2 * np.pi / size * np.arange(size)
    cosine = np.cos(angle)
    with np.errstate(divide="ignore"):
        log_cosine = np.log(np.abs(cosine))
    frequency = np.arange(size // 2 + 1)
    logarithm, is_negative = np.zeros(len(frequency)), np.zeros(len(frequency), bool)
    for index in np.argsort(-counts, kind="stable").tolist():
        count = int(counts[index])
        place = frequency * int(rounded[index]) & (size - 1)
        logarithm += count * log_cosine[place]
        if count % 2:
            is_negative ^= cosine[place] < 0
        # Drop frequencies whose product is below the precision of float64: most of them after a
        # few weights.
        if (kept := logarithm > -45).mean() < 0.7:
            frequency, logarithm = frequency[kept], logarithm[kept]
            is_negative = is_negative[kept]
    characteristic = np.zeros(size // 2 + 1)
    characteristic[frequency] = np.where(is_negative, -1, 1) * np.exp(logarithm)
    masses = np.fft.irfft(characteristic, size)
    group = np.searchsorted(weights, np.abs(differences) * (1 + 1e-11), side="right") - 1
    distance = abs(int((np.sign(differences) * rounded[group]).sum()))
    if distance > size // 2:
        return 0.0
    return float(np.clip(masses[distance : size - distance + 1].sum(), 0, 1))


def one_sample_t_test(differences: Floats) -> float:
    """Compute p of "the mean difference is zero" from the differences [n] of independent units.

    p is NaN for one unit, and if all differences are equal, because their spread is then unknown.
    """
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2 or (sd := float(np.std(differences, ddof=1))) < MIN_SPREAD:
        return math.nan
    t = float(differences.mean()) / (sd / math.sqrt(len(differences)))
    return 2 * float(special.stdtr(len(differences) - 1, -abs(t)))


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
    """Numbers of pairs in which the first method was better, equal and worse.

    Attributes:
        p: p-value of the sign test, ties ignored; 1 if all pairs tie.
    """

    wins: int
    ties: int
    losses: int
    p: float

    def __str__(self) -> str:
        """Return e.g. `179 of 192`."""
        return f"{self.wins} of {self.wins + self.ties + self.losses}"


def sign_test(first: Floats, second: Floats) -> SignTest:
    """Compare two methods' scores [N] for the same N pairs, e.g. of (dataset, model)."""
    difference = np.sign(np.asarray(first) - np.asarray(second))
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    p = _fair_coin_test(wins, losses) if wins + losses else 1.0
    return SignTest(wins, len(difference) - wins - losses, losses, p)


# The functions below avoid scipy.stats and, for short arrays, scipy.signal: their imports take
# longer than a small report.


def _fair_coin_test(heads: int, tails: int) -> float:
    """Compute p of the two-sided exact binomial test of "heads and tails are equally likely"."""
    return min(1.0, 2 * float(special.bdtr(min(heads, tails), heads + tails, 0.5)))


def _fair_coin_masses(num_tosses: int) -> Floats:
    """Return the probabilities of 0 to `num_tosses` heads: float64 [num_tosses + 1]."""
    heads = np.arange(num_tosses + 1)
    log_ways = special.gammaln(num_tosses + 1) - (
        special.gammaln(heads + 1) + special.gammaln(num_tosses - heads + 1)
    )
    masses: Floats = np.exp(log_ways - num_tosses * math.log(2))
    return masses


def _convolved(first: Floats, second: Floats) -> Floats:
    if min(len(first), len(second)) <= 500:
        return np.convolve(first, second)
    from scipy.signal import fftconvolve

    convolved: Floats = fftconvolve(first, second)
    return convolved
