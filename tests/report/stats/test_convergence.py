"""Numbers of steps until 90 % of the final odds, for curves in closed form."""

import math

import pytest

from harness.report.render.tables.models import convergence_table
from harness.report.stats.convergence import Speedup, steps_to_fraction
from harness.report.text.findings import about_convergence
from harness.runner.result import Result
from tests.helpers import study_fakes as fakes

STEPS = (100, 300, 1000, 3000, 10_000)


def test_a_straight_line_over_log_steps_is_inverted_exactly():
    logits = [0.5 * math.log(steps) - 2 for steps in STEPS]
    # Odds of 90 % are log(0.9) below the final log-odds; the slope is 0.5 per log step.
    expected = 10_000 * math.exp(math.log(0.9) / 0.5)
    assert steps_to_fraction(STEPS, logits) == pytest.approx(expected)


def test_the_first_crossing_counts_and_a_flat_curve_has_only_a_bound():
    assert steps_to_fraction(STEPS, [1.0, 1.0, 1.0, 1.0, 1.0]) is None
    found = steps_to_fraction(STEPS, [0.0, 2.0, 0.0, 1.0, 1.0])
    part = (1 + math.log(0.9)) / 2
    assert found == pytest.approx(math.exp((1 - part) * math.log(100) + part * math.log(300)))


def curve(slope: float, method: str, kind: str, model: Result) -> list[Result]:
    return [
        fakes.transfer(
            model,
            {**model.axes, "target": target, "method": method, "steps": steps},
            1 / (1 + math.exp(-(slope * math.log(steps / 10_000) + 1.5))),
            method=kind,
            num_images=10**6,
        )
        for target in ("pets", "cars")
        for steps in STEPS
    ]


def test_pretrained_and_random_networks_are_compared_by_the_ratio_of_steps():
    metrics = {"imagenet_top1": 0.8, "num_classes": 1000, "arch": "timm/inception_v4"}
    model = fakes.stage("adopt", {"model": "timm/inception_v4"}, metrics)
    results = [model, *curve(0.05, "full_steps", "full", model)]
    results += curve(0.5, "scratch_steps", "scratch", model)
    found, _ = fakes.analyzed(results)
    by_place = {(row.method, row.target): row for row in found.convergences}
    assert len(by_place) == 4
    slow = by_place["scratch_steps", "pets"].steps
    assert slow == pytest.approx(10_000 * 0.9**2, rel=1e-3)
    fast = by_place["full_steps", "pets"].steps
    assert fast == pytest.approx(10_000 * 0.9**20, rel=1e-2)
    (speedup,) = found.speedups
    assert slow and fast and speedup.ratio == pytest.approx(slow / fast)
    assert (speedup.num_targets, speedup.num_bounds) == (2, 0)
    text = about_convergence(found.speedups)
    assert text.startswith("full_steps reaches 90 % of its final odds in 6.7 times fewer steps")


def test_curves_of_equally_many_training_images_are_compared():
    model = fakes.stage("adopt", {"model": "timm/a"}, {"arch": "timm/a"})
    runs = [*curve(0.5, "full_steps", "full", model), *curve(0.5, "scratch", "scratch", model)]
    few = [
        row.model_copy(update={"key": f"{row.key}/5", "axes": {**row.axes, "per_class": 5}})
        for row in curve(5.0, "scratch", "scratch", model)
    ]
    found, _ = fakes.analyzed([model, *runs, *few])
    (speedup,) = found.speedups
    assert speedup.ratio == pytest.approx(1)  # the slower curve of few images has no counterpart
    rows = convergence_table(found.convergences).rows
    sizes = {(row[2].text, row[3].text) for row in rows}
    assert sizes == {("full_steps", "all"), ("scratch", "all"), ("scratch", "5")}


def test_the_number_of_bounds_is_stated():
    for number, pairs in ((1, "1 pair"), (2, "2 pairs")):
        text = about_convergence([Speedup("full", "scratch", 2.0, 3, number)])
        assert text.endswith(
            f"(geometric mean over 3 targets). For {pairs} of curves, only a bound is known."
        )


def test_one_number_of_steps_has_no_convergence():
    model = fakes.stage("adopt", {"model": "timm/a"}, {"arch": "timm/a"})
    single = [row for row in curve(0.5, "full_steps", "full", model) if row.axes["steps"] == 100]
    found, _ = fakes.analyzed([model, *single])
    assert found.convergences == [] and found.speedups == [] and about_convergence([]) == ""
