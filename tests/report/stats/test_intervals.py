"""Means, spreads and intervals against numpy and scipy, and pairing by seed."""

import math

import numpy as np
import pytest

from harness.report.stats.intervals import (
    Condition,
    is_near_chance,
    paired_difference,
    sampling_error,
    seed_mean,
    t_quantile_975,
)

Measured = dict[tuple[int, Condition], float]


@pytest.mark.parametrize("degrees", [1, 2, 5, 9, 10, 11, 20, 200])
def test_t_quantile_equals_scipy(degrees: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    # The table for 1 to 9 degrees has six digits. From 10 on, a series is used: error up to 7.5e-5.
    assert t_quantile_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)


def test_interval_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [0.61, 0.65, 0.6, 0.68]
    found = seed_mean(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.half_width == pytest.approx(
        (high - low) / 2, rel=1e-5
    )  # the table of quantiles has six digits
    assert found.mean == pytest.approx((high + low) / 2)


def test_one_run_has_no_interval_and_is_never_clear() -> None:
    found = seed_mean([0.9])
    assert (found.mean, found.sd, found.half_width, found.num_seeds) == (0.9, None, None, 1)
    assert not found.is_clear


def test_clear_means_that_the_interval_excludes_zero() -> None:
    assert seed_mean([0.010, 0.011, 0.012]).is_clear
    assert seed_mean([-0.010, -0.011, -0.012]).is_clear
    assert not seed_mean([-0.01, 0.011, 0.012]).is_clear
    assert not seed_mean([0.0, 0.0]).is_clear


def test_difference_is_averaged_within_a_seed_then_over_seeds() -> None:
    values: Measured = {(0, ("a",)): 0.5, (0, ("b",)): 0.9, (1, ("a",)): 0.6, (1, ("b",)): 0.6}
    baseline: Measured = {(0, ("a",)): 0.4, (0, ("b",)): 0.6, (1, ("a",)): 0.6, (1, ("b",)): 0.5}
    found = paired_difference(values, baseline)
    assert found is not None and found.conditions == (("a",), ("b",))
    per_seed = [(0.1 + 0.3) / 2, (0.0 + 0.1) / 2]
    assert found.over_seeds.mean == pytest.approx(np.mean(per_seed))
    assert found.over_seeds.sd == pytest.approx(np.std(per_seed, ddof=1))


def test_a_seed_without_all_conditions_is_left_out() -> None:
    values: Measured = {(0, ("a",)): 0.5, (0, ("b",)): 0.9, (1, ("a",)): 0.9}
    baseline: Measured = {(0, ("a",)): 0.4, (0, ("b",)): 0.6, (1, ("a",)): 0.1, (1, ("b",)): 0.5}
    found = paired_difference(values, baseline)
    assert found is not None and found.over_seeds.num_seeds == 1
    assert found.over_seeds.mean == pytest.approx(0.2)


def test_no_shared_condition_gives_no_difference() -> None:
    assert paired_difference({(0, ("a",)): 0.5}, {(1, ("a",)): 0.5, (0, ("b",)): 0.1}) is None
    assert paired_difference({}, {}) is None


def test_near_chance_is_three_binomial_standard_errors() -> None:
    edge = 0.1 + 3 * math.sqrt(0.1 * 0.9 / 400)
    assert is_near_chance(edge - 1e-6, 10, 400)
    assert not is_near_chance(edge + 1e-6, 10, 400)
    assert is_near_chance(0.02, 10, 400)
    assert not is_near_chance(0.02, None, 400)


def test_sampling_error_equals_simulated_spread() -> None:
    draws = np.random.default_rng(0).binomial(400, 0.7, size=(20_000, 2)) / 400
    # The spread of 20,000 draws has a standard error of 0.5 %.
    assert sampling_error(0.7, 400) == pytest.approx(
        1.96 * np.std(draws[:, 0] - draws[:, 1]), rel=0.03
    )
