"""Phrases that several sentences use: lists, differences in points, what was averaged, p-values."""

from collections.abc import Mapping, Sequence

from harness.report.stats.intervals import MIN_SPREAD, SeedMean


def join_words(parts: Sequence[str]) -> str:
    """Join as `a`, `a and b`, or `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def signed(value: float, decimals: int) -> str:
    """Format a number with its sign; the minus is the typographic one."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def plain(value: float, decimals: int = 2) -> str:
    """Format a number with a typographic minus."""
    return f"{value:.{decimals}f}".replace("-", "−")


def nonzero(value: float, decimals: int) -> str:
    """Format a number of at least 0, with further decimals or as a bound if it would round to 0."""
    for digits in range(decimals, decimals + 3):
        text = f"{value:.{digits}f}"
        if value == 0 or float(text) > 0:
            return text
    return f"< {10.0**-digits:.{digits}f}"


def bounded(value: float, decimals: int) -> str:
    """Format a number of at least 0 for a column; as a bound, such as `< 0.1`, if it rounds to 0.

    Unlike `nonzero`, all numbers of a column have the same number of decimals.
    """
    text = f"{value:.{decimals}f}"
    if value < MIN_SPREAD or float(text) > 0:
        return text
    return f"< {10.0**-decimals:.{decimals}f}"


def half_width(value: float, decimals: int) -> str:
    """Format half an interval as `± 0.3`; a small one never as 0."""
    return f"± {nonzero(value, decimals)}"


def in_points(difference: SeedMean, *remarks: str) -> str:
    """Format a difference of fractions as `+1.2 ± 0.3 points (full)`.

    The remark `not clear` is added if the interval includes zero.
    """
    text = signed(100 * difference.mean, 1)
    if difference.half_width is not None:
        text += f" {half_width(100 * difference.half_width, 1)}"
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


def counted(number: int, noun: str) -> str:
    """Format as `over 3 targets` or `on one target`."""
    return f"over {number:,} {noun}s" if number > 1 else f"on one {noun}"


def p_value(p: float) -> str:
    """Format as `< 0.001`, `= 0.012` or `= 0.34`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"
