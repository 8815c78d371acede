"""Table of equal numbers of pretraining images: fewer classes, or fewer images of every class."""

from collections.abc import Sequence

from harness.report.data.records import format_eps
from harness.report.render.tables.cells import NONE, percent, text
from harness.report.render.tables.table import Cell, Column, Table
from harness.report.stats.budgets import BudgetScore

_LABELS = {"classes": "all images of fewer classes", "examples": "fewer images of all classes"}


def budget_table(rows: Sequence[BudgetScore]) -> Table:
    """Two lines per target, method and model; a column per number of images, largest first."""
    sizes = sorted({row.num_images for row in rows}, reverse=True)
    groups = list(dict.fromkeys(_group(row) for row in rows))
    cells = {(_group(row), row.by, row.num_images): _cell(row) for row in rows}
    columns = (
        *(Column(label, numeric=False) for label in ("target", "method", "model", "images")),
        *(Column(f"{size:,}", group="pretraining images") for size in sizes),
    )
    lines = tuple(
        (
            *(text(part) for part in group),
            text(label),
            *(cells.get((group, by, size), NONE) for size in sizes),
        )
        for group in groups
        for by, label in _LABELS.items()
    )
    note = "Percent in the target's metric, means over seeds."
    if any(row.published is not None for row in rows):
        note += (
            " Published: Huh et al. 2016, AlexNet, detection on PASCAL VOC 2007 and scenes of SUN. "
            "Their network and metric differ, so compare the order and the trend."
        )
    return Table("budgets", "More classes or more images per class", columns, lines, note)


def _group(row: BudgetScore) -> tuple[str, str, str]:
    eps = f"eps {format_eps(row.eps)}" if row.eps else ""
    model = " ".join(part for part in (row.arch, row.variant, eps) if part)
    return row.target, row.method, model


def _cell(row: BudgetScore) -> Cell:
    below = "" if row.published is None else f"published {row.published:.1f}"
    return Cell(percent(row.score, 1), sort=row.score, below=below)
