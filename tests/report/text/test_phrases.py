"""Phrases: numbers with their uncertainty, lists and counts."""

import pytest

from harness.report.stats.intervals import SeedMean
from harness.report.text.phrases import (
    averaged_over,
    bounded,
    counted,
    half_width,
    in_points,
    nonzero,
)


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
    assert counted(1097, "target") == "over 1,097 targets"
    assert averaged_over({"target": tuple(map(str, range(1200)))}) == "1,200 targets"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0"), (1e-17, "0.0"), (0.04, "< 0.1"), (0.05000001, "0.1"), (12.34, "12.3")],
)
def test_amounts_of_a_column_have_equal_decimals(value: float, text: str) -> None:
    assert bounded(value, 1) == text
