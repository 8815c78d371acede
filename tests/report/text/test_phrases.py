"""Phrases: numbers with their uncertainty, lists and counts."""

import pytest

from harness.report.stats.intervals import SeedMean
from harness.report.text.phrases import (
    averaged_over,
    bounded,
    correlation,
    decimals_to_exclude_zero,
    half_width,
    in_points,
    nonzero,
    over_or_on,
    plain,
    signed,
)
from writers.text_names import percent


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.0, 2, "0.00"),
        (0.3, 1, "0.3"),
        (0.006, 2, "0.01"),
        (0.004, 2, "0.004"),
        (0.00021, 2, "0.0002"),
        (1e-9, 2, "< 0.0001"),
        (1e-9, 1, "< 0.001"),
    ],
)
def test_a_small_amount_is_not_printed_as_zero(value: float, decimals: int, text: str) -> None:
    assert nonzero(value, decimals) == text
    assert half_width(value, decimals) == f"± {text}"


def test_a_narrow_interval_of_a_difference_is_not_zero_wide() -> None:
    narrow = SeedMean(0.02, 1e-7, 3)
    assert "± 0.0 " not in in_points(narrow) and "± < 0.001 points" in in_points(narrow)


def test_counts_have_thousands_separators() -> None:
    assert over_or_on(1097, "target") == "over 1,097 targets"
    assert averaged_over({"target": tuple(map(str, range(1200)))}) == "1,200 targets"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0"), (1e-17, "0.0"), (0.04, "< 0.1"), (0.05000001, "0.1"), (12.34, "12.3")],
)
def test_amounts_of_a_column_have_equal_decimals(value: float, text: str) -> None:
    assert bounded(value, 1) == text


@pytest.mark.parametrize(
    ("low", "high", "decimals"),
    [
        (-0.21, -0.04, 2),  # -0.2 to -0.0
        (0.0004, 0.21, 4),
        (0.01, 0.03, 2),
        (0.06, 0.44, 2),  # +0.2 plus or minus 0.2
        (-0.21, 0.04, 1),
        (0.0, 0.2, 1),
        (-2.0, -1.0, 1),
        (1e-9, 0.2, 4),
    ],
)
def test_an_interval_without_zero_is_not_printed_with_zero(
    low: float, high: float, decimals: int
) -> None:
    assert decimals_to_exclude_zero(low, high) == decimals
    assert decimals_to_exclude_zero(-high, -low) == decimals


def test_a_clear_difference_is_visible() -> None:
    # Half the t interval over 2 seeds is 8.98 times the standard deviation.
    assert in_points(SeedMean(-0.0004, 0.00002, 2)) == "−0.04 ± 0.02 points"
    assert in_points(SeedMean(0.0024, 0.00022, 2)) == "+0.24 ± 0.20 points"
    assert in_points(SeedMean(-0.0004, 0.0003, 2)) == "0.0 ± 0.3 points (not clear)"
    assert in_points(SeedMean(0.02, None, 1)) == "+2.0 points"


def test_zero_has_no_sign() -> None:
    assert (signed(-0.04, 1), plain(-0.001)) == ("0.0", "0.00")
    assert (signed(-0.06, 1), plain(-0.01)) == ("−0.1", "−0.01")


@pytest.mark.parametrize(
    ("fraction", "decimals", "text"),
    [
        (1.0, 1, "100.0"),
        (0.9996, 1, "99.9"),
        (0.99996, 2, "99.99"),
        (0.999, 0, "99"),
        (0.9994, 1, "99.9"),
        (0.5, 1, "50.0"),
        (1.2, 0, "120"),
    ],
)
def test_a_fraction_below_one_is_not_printed_as_100_percent(
    fraction: float, decimals: int, text: str
) -> None:
    assert percent(fraction, decimals) == text


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (1.0, 3, "1.000"),
        (0.9996, 3, "0.999"),
        (-0.9996, 3, "−0.999"),
        (0.9994, 3, "0.999"),
        (-0.001, 2, "0.00"),
        (-1.0, 2, "−1.00"),
    ],
)
def test_a_correlation_below_one_is_not_printed_as_1(
    value: float, decimals: int, text: str
) -> None:
    assert correlation(value, decimals) == text
