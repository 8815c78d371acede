"""Phrases that several sentences use: lists, differences, what was averaged, p-values.

A difference of accuracies is in points: 0.61 instead of 0.60 is +1 point.
"""

import math
from collections.abc import Mapping, Sequence

from harness.report.stats.intervals import MIN_SPREAD, SeedMean

MIN_TARGETS = 3  # smallest number of targets that counts as a sample
MAX_DECIMALS = 4  # largest number of decimals of a percentage


def join_words(parts: Sequence[str]) -> str:
    """Join as `a`, `a and b`, or `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def signed(value: float, decimals: int) -> str:
    """Format a number with its sign; the minus is the typographic one, and zero has no sign."""
    text = f"{value:z.{decimals}f}"
    return f"+{text}" if float(text) > 0 else text.replace("-", "−")


def plain(value: float, decimals: int = 2) -> str:
    """Format a number with a typographic minus; a number that rounds to zero has no minus."""
    return f"{value:z.{decimals}f}".replace("-", "−")


def correlation(value: float, decimals: int = 2) -> str:
    """Format a correlation with a typographic minus. Only exactly 1 or -1 is printed as 1 or -1."""
    text = plain(value, decimals)
    if abs(value) < 1 and text.endswith(f"{1:.{decimals}f}"):
        return plain(math.copysign(1 - 10.0**-decimals, value), decimals)
    return text


def decimals_to_exclude_zero(low: float, high: float, decimals: int = 1) -> int:
    """Return the number of decimals at which an interval still excludes zero after rounding.

    The interval may be printed as low and high, or as mean and half width. The number is at least
    `decimals` and at most MAX_DECIMALS. It is `decimals` if the interval includes zero.
    """
    nearest, mean, half = min(abs(low), abs(high)), abs(low + high) / 2, abs(high - low) / 2
    digits = decimals
    while (
        low * high > 0
        and digits < MAX_DECIMALS
        and (round(nearest, digits) == 0 or round(mean, digits) <= round(half, digits))
    ):
        digits += 1
    return digits


def nonzero(value: float, decimals: int) -> str:
    """Format a number of at least 0. If it would round to 0, add decimals, or give a bound."""
    for digits in range(decimals, decimals + 3):
        text = f"{value:.{digits}f}"
        if value == 0 or float(text) > 0:
            return text
    return f"< {10.0**-digits:.{digits}f}"


def bounded(value: float, decimals: int) -> str:
    """Format a number of at least 0. If it would round to 0, give a bound, such as `< 0.1`.

    Values below MIN_SPREAD are rounding errors and are printed as 0. The number of decimals is
    always the same, for columns of tables.
    """
    text = f"{value:.{decimals}f}"
    if value < MIN_SPREAD or float(text) > 0:
        return text
    return f"< {10.0**-decimals:.{decimals}f}"


def half_width(value: float, decimals: int) -> str:
    """Format the half width of an interval as `± 0.3`; a small one is never printed as 0."""
    return f"± {nonzero(value, decimals)}"


def in_points(difference: SeedMean, *remarks: str) -> str:
    """Format a difference of fractions with remarks: `+1.2 ± 0.3 points (remark, remark)`.

    The remark `not clear` is added if the interval includes zero. A clear difference has enough
    decimals to show that the interval excludes zero.
    """
    mean, half = 100 * difference.mean, difference.half_width
    decimals = 1 if half is None else decimals_to_exclude_zero(mean - 100 * half, mean + 100 * half)
    text = signed(mean, decimals)
    if half is not None:
        text += f" {half_width(100 * half, decimals)}"
        remarks = remarks if difference.is_clear else (*remarks, "not clear")
    return f"{text} points" + (f" ({', '.join(remarks)})" if remarks else "")


def averaged_over(axes: Mapping[str, Sequence[str]]) -> str:
    """Format axis -> values as `2 targets and eps 0, 0.5`; "" if no axis has several values."""
    return join_words(
        [
            f"eps {', '.join(values)}" if axis == "eps" else f"{len(values):,} {axis}s"
            for axis, values in axes.items()
            if len(values) > 1
        ]
    )


def over_or_on(number: int, noun: str) -> str:
    """Format as `over 3 targets` or `on one target`."""
    return f"over {number:,} {noun}s" if number > 1 else f"on one {noun}"


def p_value(p: float) -> str:
    """Format as `< 0.001`, `= 0.012` or `= 0.34`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
