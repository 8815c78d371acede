"""Format cells and columns that several tables share: numbers, percentages, spreads and models."""

import math
from collections.abc import Iterable, Sequence

from harness.report.data.records import ModelRecord, format_eps
from harness.report.render.tables.table import Cell, Column, ColumnOf
from harness.report.stats.intervals import SeedMean
from harness.report.text.phrases import bounded, decimals_to_exclude_zero, plain, signed
from writers.text_names import percent

NONE = Cell("–", absent=True)
CHANCE_NOTE = "°: not clearly above chance."
MIN_TOP5 = 6  # smallest number of classes of which top-5 can miss one
SCORE_TITLES = {
    "top1": "top-1",
    "mean_per_class": "mean per class",
    "top5": "top-5",
    "map11": "11-point mAP",
    "map50_11": "11-point mAP, boxes",
    "map50": "mAP, boxes",
}


def text(value: str, below: str = "") -> Cell:
    """A text cell, sorted alphabetically."""
    return Cell(value, sort=value, below=below)


def optional_text(value: str) -> Cell:
    """A text cell, sorted alphabetically; a dash if it is empty."""
    return text(value) if value else NONE


def number(value: float | None) -> Cell:
    """A number without decimals; a dash for None."""
    return NONE if value is None else Cell(f"{value:,.0f}", sort=float(value))


def size_cell(size: int | None) -> Cell:
    """A number of images or steps; `all` for None."""
    return Cell("all") if size is None else number(size)


def decimal(value: float, below: str = "") -> Cell:
    """A number with two decimals; a dash for NaN."""
    if math.isnan(value):
        return NONE
    # The option z prints -0.00 as 0.00.
    return Cell(f"{value:z.2f}".replace("-", "−"), sort=value, below=below)


def percent_cell(fraction: float | None) -> Cell:
    """A percentage with one decimal; a dash for None."""
    return NONE if fraction is None else Cell(percent(fraction, 1), sort=fraction)


def points(fraction: float, half_width: float | None = None) -> str:
    """A difference of fractions as signed percentage points.

    If the interval with this half width excludes zero, there are enough decimals to show that.
    """
    half = math.inf if half_width is None else half_width
    low, high = 100 * (fraction - half), 100 * (fraction + half)
    return signed(100 * fraction, decimals_to_exclude_zero(low, high))


def interval_cell(low: float | None, high: float | None, sort: float | None, none: Cell) -> Cell:
    """Format both bounds in percentage points, with enough decimals to show their signs.

    Returns the cell `none` if there is no interval.
    """
    if low is None or high is None:
        return none
    decimals = decimals_to_exclude_zero(100 * low, 100 * high)
    if low < 0 < high:  # show both signs of an interval that includes zero, too
        smaller = 100 * min(-low, high)
        decimals = decimals_to_exclude_zero(smaller, smaller)
    return Cell(
        f"{signed(100 * low, decimals)} to {signed(100 * high, decimals)}",
        sort=sort,
    )


def p_value_cell(p: float | None) -> Cell:
    """A p-value with two decimals; below 0.01 with four; below 0.0001 as a bound; or a dash."""
    if p is None or math.isnan(p):
        return NONE
    return Cell("< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}", sort=p)


def spread(means: Sequence[SeedMean], decimals: int, num_seeds: int) -> str:
    """Format standard deviations as `sd 0.4 (0.2)`; add e.g. `1 of 2 seeds` if some are missing."""
    parts = []
    if all(mean.sd is not None for mean in means):
        first, *others = (bounded(100 * (mean.sd or 0.0), decimals) for mean in means)
        parts.append(" ".join(["sd", first, *(f"({other})" for other in others)]))
    if means[0].num_seeds < num_seeds:
        parts.append(f"{means[0].num_seeds:,} of {num_seeds:,} seeds")
    return ", ".join(parts)


def decimals_for(num_images: Iterable[int]) -> int:
    """Return the decimals of an accuracy: 2 if one image is at most 0.01 percent, otherwise 1."""
    return 2 if min(num_images) >= 10_000 else 1


def plain_or_percent(value: float, is_accuracy: bool) -> str:
    """Format an accuracy in percent, and any other score with three decimals."""
    return percent(value, 1) if is_accuracy else plain(value, 3)


def subset_cell(row: ModelRecord) -> Cell:
    """Name and number of classes of the pretraining subset; a dash if there is none."""
    if not row.subset:
        return NONE
    return sized_cell(row.subset, row.num_classes)


def sized_cell(subset: str, num_classes: int | None) -> Cell:
    """A subset's name with its number of classes, by which it sorts."""
    if num_classes is None:
        return Cell(subset)
    return Cell(subset, sort=float(num_classes), detail=f"{num_classes:,}")


def variant_cell(variant: str, same: Sequence[str]) -> Cell:
    """Name of a variant, and of other variants that are the same model."""
    return Cell(
        variant or "plain", sort=variant, below=f"same as {', '.join(same)}" if same else ""
    )


def model_columns(rows: Sequence[ModelRecord]) -> list[ColumnOf[ModelRecord]]:
    """Columns that distinguish the models.

    Variant, eps and arch are omitted if they have a single value.
    """
    columns: list[ColumnOf[ModelRecord]] = []
    if any(row.model for row in rows):
        columns.append((Column("model", numeric=False), lambda row: optional_text(row.model)))
    if any(row.subset for row in rows):
        columns.append((Column("training classes", numeric=False), subset_cell))
    if len({row.variant for row in rows}) > 1:
        columns.append((Column("variant", numeric=False), _variant_of))
    if len({row.eps for row in rows}) > 1:
        columns.append((Column("eps"), lambda row: Cell(format_eps(row.eps), sort=row.eps)))
    if len({row.arch for row in rows if row.arch}) > 1:
        columns.append((Column("arch", numeric=False), lambda row: optional_text(row.arch)))
    return columns


def _variant_of(row: ModelRecord) -> Cell:
    return variant_cell(row.variant, row.same_variants)
