"""Error rates of comparisons in simulated studies without an effect, and their unit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.report.data.records import TransferRow
from harness.report.stats import intervals
from harness.report.stats.calibration import calibrations
from harness.report.stats.comparisons import Comparison, comparisons
from harness.report.stats.hypothesis_tests import one_sample_t_test
from harness.report.stats.image_tests import image_tests
from tests.helpers import study_fakes as fakes

TARGETS = ("pets", "food", "cars")


def study(
    score: Callable[[str, int, str], float], seeds: int, axis: str = "subset"
) -> list[TransferRow]:
    """Return rows of two values of `axis`, with score(name, seed, target) as their accuracy.

    name: "baseline" or "setting".
    """
    template = fakes.analyzed(fakes.model_zoo(num_models=1, with_scores=False))[1][0]
    values: dict[str, tuple[Any, Any]] = {
        "subset": ("all", "few"),
        "variant": ("", "wide"),
        "eps": (0.0, 3.0),
    }
    base = replace(template, model="", arch="resnet18", subset="all", variant="", eps=0.0)
    return [
        replace(
            replace(base, **{axis: value}),
            seed=seed,
            target=target,
            num_classes=10 if value == "few" else 20,
            top1=score(name, seed, target),
            key=f"{name} {seed} {target}",
        )
        for name, value in zip(("baseline", "setting"), values[axis], strict=True)
        for seed in range(seeds)
        for target in TARGETS
    ]


@pytest.mark.parametrize("axis", ["subset", "variant", "eps"])
def test_the_pretrained_model_is_the_unit(axis: str) -> None:
    """Targets that agree about one lucky model are not evidence for the setting."""
    lucky = {("setting", 0): 0.04, ("setting", 1): -0.01, ("setting", 2): 0.0}
    place = {target: 0.01 * index for index, target in enumerate(TARGETS)}
    rows = study(
        lambda name, seed, target: 0.7 + lucky.get((name, seed), 0.0) + 0.001 * place[target],
        3,
        axis,
    )
    (row,) = comparisons(rows)
    oracle = scipy_stats.ttest_1samp([0.04, -0.01, 0.0], 0).confidence_interval()
    assert (row.unit, row.num_units, row.num_targets) == ("model", 3, 3)
    assert row.difference == pytest.approx(0.01) and not row.is_clear
    assert row.half_width_95 == pytest.approx((oracle.high - oracle.low) / 2)
    (single,) = comparisons([row for row in rows if row.seed == 0])
    assert (single.half_width_95, single.p, single.is_clear) == (None, None, False)


def test_equal_differences_are_no_estimate_of_the_spread() -> None:
    rows = study(lambda name, seed, target: 0.7 + 0.1 * seed + 0.02 * (name == "setting"), 2)
    (row,) = comparisons(rows)
    assert (row.half_width_95, row.p, row.is_clear) == (None, None, False)
    assert intervals.seed_mean([0.71 - 0.70, 0.61 - 0.60]).half_width is None


def test_the_whole_comparison_rarely_finds_effects_in_null_studies() -> None:
    """400 studies without an effect; models differ more than targets do."""
    random = np.random.default_rng(0)
    template = study(lambda name, seed, target: 0.5, 2)

    def null_study() -> Comparison:
        model = {key: random.normal(0, 0.02) for key in {(r.subset, r.seed) for r in template}}
        noisy = [
            replace(row, top1=0.7 + model[row.subset, row.seed] + random.normal(0, 0.005))
            for row in template
        ]
        (row,) = comparisons(noisy)
        return row

    studies = [null_study() for _ in range(400)]
    # 5 % of 400 is 20, with a standard deviation of 4.4. A test over targets finds over 100.
    assert sum(row.is_clear for row in studies) <= 33


def test_simulated_error_rates_are_nominal_for_printed_procedures_only() -> None:
    lines = list(calibrations(150, procedures=("subset, eps or variant", "the same, t over")))
    for line in lines:
        if line.is_printed:  # 5 % in 150 studies has a standard error of 1.8 %
            assert line.false_positives is None or line.false_positives < 0.12, line
            assert line.coverage is None or line.coverage > 0.88, line
    over_targets = [line for line in lines if line.procedure == "the same, t over targets"]
    assert max(line.false_positives or 0 for line in over_targets) > 0.3
    single = [line for line in lines if line.is_printed and line.design.startswith("1 seed,")]
    assert single and all(line.coverage is None for line in single)


def test_sets_of_unequal_size_use_the_degrees_of_freedom_of_the_smaller() -> None:
    random = np.random.default_rng(0)
    small, large = random.normal(0, 3, 2), random.normal(0, 1, 5)
    found = intervals.welch(large, small)
    assert found is not None
    error = np.sqrt(scipy_stats.sem(small) ** 2 + scipy_stats.sem(large) ** 2)
    assert found.high - found.mean == pytest.approx(scipy_stats.t.ppf(0.975, 1) * error)


def test_one_sample_test_equals_scipy() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 7)
    assert one_sample_t_test(values) == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_test_over_images_has_the_pretrained_model_as_its_unit(
    tmp_path: Path, seeds: int
) -> None:
    rows = study(lambda name, seed, target: 0.7, seeds)
    rows = [row for row in rows if row.target == "pets"]
    random = np.random.default_rng(0)
    files, means = {}, {}
    for row in rows:
        correct = random.random(500) < (0.6 if row.subset == "all" else 0.8)
        path = tmp_path / f"{row.subset}-{row.seed}.npz"
        np.savez(path, sample=np.arange(500), label=np.arange(500) % 7, test_correct=correct)
        files[row.key], means[row.subset, row.seed] = path, correct.mean()
    (test,) = image_tests(rows, files, {})
    differences = [means["few", seed] - means["all", seed] for seed in range(seeds)]
    assert test.difference == pytest.approx(np.mean(differences))
    if seeds == 1:
        assert test.test == "one pair of models" and np.isnan(test.p)
    else:
        assert test.p == pytest.approx(scipy_stats.ttest_1samp(differences, 0).pvalue)
