"""Measure how often the report's tests and intervals are wrong, on simulated studies.

In a study of subsets, eps or variants, the scores are accuracies: the sum of a base value, an
effect of the pretrained model that is equal for all targets, an effect of (model, target), and
binomial noise of the test images. Studies of other procedures draw simpler numbers, which are
described at their functions. In a null study, no setting has an effect. Procedures that the report
prints are computed by the functions that it calls.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from harness.report.stats import elo, summaries
from harness.report.stats.comparisons import differences_by_model, differences_by_target
from harness.report.stats.hypothesis_tests import mcnemar, one_sample_t_test
from harness.report.stats.intervals import t_half_width, welch

Floats = NDArray[np.float64]
Random = np.random.Generator
MAX_FALSE_POSITIVES = 0.06
MIN_COVERAGE = 0.93
# Base accuracy, and standard deviations of the effects of model and of (model, target): fractions.
BASE, MODEL_SD, TARGET_SD = 0.75, 0.010, 0.008
SEEDS, TARGETS, IMAGES = (1, 2, 3, 5), (3, 12), (50, 4000)  # sizes of the simulated designs


@dataclass(frozen=True)
class Calibration:
    """Error rates of one procedure in one design.

    Attributes:
        procedure: what is computed, and over which units.
        is_printed: True if the report prints its result. The error rates of the others show why
            they are not printed.
        num_studies: number of simulated studies.
        without_interval: fraction of the studies in which the procedure gives no interval.
        false_positives: the larger of two fractions of all null studies: those whose interval
            excludes the truth, and those with p below 0.05. None if the procedure is not a test.
        coverage: fraction of the intervals that include the truth; None without intervals.
    """

    procedure: str
    design: str
    is_printed: bool
    num_studies: int
    without_interval: float
    false_positives: float | None
    coverage: float | None

    @property
    def is_calibrated(self) -> bool:
        """True if both rates are within MAX_FALSE_POSITIVES and MIN_COVERAGE."""
        return (self.false_positives is None or self.false_positives <= MAX_FALSE_POSITIVES) and (
            self.coverage is None or self.coverage >= MIN_COVERAGE
        )


@dataclass(frozen=True)
class Verdict:
    """Result of one study: if it has an interval, if this includes the truth, if p < 0.05."""

    has_interval: bool
    covers: bool
    is_significant: bool = False


def calibrations(
    num_studies: int, seed: int = 0, procedures: tuple[str, ...] = ("",)
) -> Iterator[Calibration]:
    """Simulate every procedure in every design.

    Args:
        num_studies: studies per procedure and design. The standard error of a rate of 5 % is
            0.49 % for 2,000 studies.
        seed: seed of the random studies.
        procedures: prefixes of the names of the procedures to simulate.
    """
    for index, (procedure, design, is_printed, is_test, study) in enumerate(_procedures()):
        if not procedure.startswith(procedures):
            continue
        random = np.random.default_rng((seed, index))
        verdicts = [study(random) for _ in range(num_studies)]
        num_intervals = sum(verdict.has_interval for verdict in verdicts)
        num_covering = sum(verdict.has_interval and verdict.covers for verdict in verdicts)
        num_significant = sum(verdict.is_significant for verdict in verdicts)
        num_wrong = max(num_intervals - num_covering, num_significant)
        yield Calibration(
            procedure,
            design,
            is_printed,
            num_studies,
            1 - num_intervals / num_studies,
            num_wrong / num_studies if is_test else None,
            num_covering / num_intervals if num_intervals else None,
        )


Study = Callable[[Random], Verdict]


def _procedures() -> Iterator[tuple[str, str, bool, bool, Study]]:
    """Yield (procedure, design, is printed, is a test, function that decides one study)."""
    for seeds in SEEDS:
        for targets in TARGETS:
            for images in IMAGES:
                design = f"{_counted(seeds, 'seed')}, {targets} targets of {images:,} images"
                for name, is_printed, decide in (
                    ("subset, eps or variant, t over models", True, _over_models),
                    ("the same, t over targets", False, _over_targets),
                ):
                    yield name, design, is_printed, True, _settings(decide, seeds, targets, images)
    for seeds in SEEDS:
        design = f"{_counted(seeds, 'seed')}, one target of 4,000 images"
        yield "the same, McNemar over images", design, False, True, _images(seeds)
    for seeds, targets in ((2, 3), (3, 3), (5, 12)):
        design = f"{seeds} seeds, {targets} targets of 4,000 images"
        study = _settings(_bootstrap, seeds, targets, 4000)
        yield "the same, bootstrap of seeds and targets", design, False, True, study
    for targets in TARGETS:
        design = f"8 models, {targets} targets"
        yield "methods, t over targets", design, True, True, _methods(targets)
        yield "weighted Kendall, t over targets", design, True, False, _kendall(targets)
        yield "Elo, Wald", design, False, False, _elo(targets)
    for first, second, ratio in ((2, 2, 1), (2, 2, 10), (3, 3, 3), (5, 5, 3), (2, 5, 3), (5, 2, 3)):
        design = f"{first} against {second} seeds, sd 1 : {ratio}"
        yield "transfer against scratch, Welch", design, True, True, _welch(first, second, ratio)
    for models, r in ((4, 0.0), (4, 0.8), (16, 0.0), (16, 0.8)):
        study = _correlation(models, r)
        yield "correlation, Fisher", f"{models} models, r {r}", True, r == 0, study


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def _accuracies(random: Random, seeds: int, targets: int, images: int) -> Floats:
    """Draw accuracies [seeds, targets, 2] of two settings without a difference."""
    model = random.normal(0, MODEL_SD, (seeds, 1, 2))
    expected = BASE + model + random.normal(0, TARGET_SD, (seeds, targets, 2))
    counts = random.binomial(images, expected)
    return np.asarray(counts / images, np.float64)


def _settings(
    decide: Callable[[Random, Floats, Floats], Verdict], seeds: int, targets: int, images: int
) -> Study:
    def study(random: Random) -> Verdict:
        scores = _accuracies(random, seeds, targets, images)
        return decide(random, scores, summaries.logit(scores, images))

    return study


def _mean_interval(differences: Floats, p: float = math.nan, truth: float = 0.0) -> Verdict:
    half = t_half_width(differences)
    if half is None:
        return Verdict(False, False)
    return Verdict(True, bool(abs(differences.mean() - truth) <= half), p < 0.05)


def _over_models(random: Random, scores: Floats, logits: Floats) -> Verdict:
    places = [(seed, str(target)) for seed, target in np.ndindex(*scores.shape[:2])]
    differences = differences_by_model(places, scores.reshape(-1, 2))
    p = one_sample_t_test(differences_by_model(places, logits.reshape(-1, 2)))
    return _mean_interval(differences, p)


def _over_targets(random: Random, scores: Floats, logits: Floats) -> Verdict:
    differences = (scores[..., 0] - scores[..., 1]).mean(axis=0)
    return _mean_interval(differences, one_sample_t_test(np.diff(logits).mean(axis=0)[:, 0]))


def _bootstrap(random: Random, scores: Floats, logits: Floats) -> Verdict:
    """Decide by the percentile interval of the mean, with seeds and targets resampled."""
    differences = scores[..., 0] - scores[..., 1]
    num_seeds, num_targets = differences.shape
    weights = [
        random.multinomial(size, np.full(size, 1 / size), 400) / size
        for size in (num_seeds, num_targets)
    ]
    means = np.einsum("ks,st,kt->k", weights[0], differences, weights[1], optimize=False)
    low, high = np.quantile(means, (0.025, 0.975))
    return Verdict(True, bool(low <= 0 <= high))


def _images(seeds: int) -> Study:
    def study(random: Random) -> Verdict:
        expected = BASE + random.normal(0, MODEL_SD, (seeds, 1, 2))
        correct = random.random((seeds, 4000, 2)) < expected
        flat = correct.reshape(-1, 2)
        return Verdict(False, False, mcnemar(flat[:, 0], flat[:, 1]) < 0.05)

    return study


def _methods(targets: int) -> Study:
    """Compare two methods on 8 models. Their scores differ by noise, and by a value per target.

    The value of each target is drawn from a distribution of mean 0.
    """

    def study(random: Random) -> Verdict:
        of_target = random.normal(0, TARGET_SD, targets)
        noise = random.normal(0, TARGET_SD, (8, targets, 2))
        scores = BASE + noise + np.stack([of_target, np.zeros(targets)], axis=-1)
        places = [(0, str(target), model) for model, target in np.ndindex(8, targets)]
        differences = differences_by_target(places, scores.reshape(-1, 2))
        logits = differences_by_target(places, summaries.logit(scores, 4000).reshape(-1, 2))
        return _mean_interval(differences, one_sample_t_test(logits))

    return study


def _kendall(targets: int) -> Study:
    """Compute the weighted Kendall correlation of one score on similar targets, for 8 models."""
    quality = np.linspace(0, 1, 8)

    def draw(random: Random, number: int) -> Floats:
        score, accuracy = quality + random.normal(0, 0.25, (2, number, len(quality)))
        pairs = zip(score, accuracy, strict=True)
        return np.array([summaries.weighted_kendall(*pair) for pair in pairs])

    @lru_cache(1)
    def truth() -> float:
        return float(draw(np.random.default_rng(1), 2000).mean())

    return lambda random: _mean_interval(draw(random, targets), truth=truth())


def _elo(targets: int) -> Study:
    """Compute the Elo strength of one of 8 models of two families.

    The order of the families depends on the target.
    """
    quality = np.linspace(0, 1, 8)
    # Models of one family rise and fall together on a target.
    family = np.arange(8) % 2

    def draw(random: Random, number: int) -> Sequence[Floats]:
        shift = random.normal(0, 0.5, (number, 2))[:, family]
        return list(quality + shift + random.normal(0, 0.3, (number, 8)))

    @lru_cache(1)
    def truth() -> float:
        rounds = draw(np.random.default_rng(1), 2000)
        return float(elo.fit(elo.count_wins(rounds)).strengths[4])

    def study(random: Random) -> Verdict:
        # Each target has three seeds, which give nearly the same order of the models.
        rounds = [
            scores + random.normal(0, 0.05, 8) for scores in draw(random, targets) for _ in range(3)
        ]
        found = elo.fit(elo.count_wins(rounds))
        half = 1.96 * math.sqrt(found.covariance[4, 4])
        return Verdict(True, bool(abs(found.strengths[4] - truth()) <= half))

    return study


def _welch(first: int, second: int, ratio: float) -> Study:
    def study(random: Random) -> Verdict:
        interval = welch(random.normal(0, 1, first), random.normal(0, ratio, second))
        return Verdict(interval is not None, interval is not None and not interval.excludes_zero)

    return study


def _correlation(models: int, r: float) -> Study:
    def study(random: Random) -> Verdict:
        x, noise = random.normal(0, 1, (2, models))
        found = summaries.correlation(x, r * x + math.sqrt(1 - r * r) * noise)
        return Verdict(True, found.low <= r <= found.high)

    return study


def largest_standard_error(num_studies: int) -> float:
    """Return the standard error of a rate of 5 % in `num_studies` studies, as a fraction."""
    return float(scipy_stats.binom.std(num_studies, 0.05) / num_studies)
