"""Build tables on selections by scores: targets that took part, and the scores of classes."""

from collections.abc import Sequence

from harness.report.data.selections import NUM_SHOWN, ClassScoreRow, SelectionRow
from harness.report.render.tables.cells import NONE, number, optional_text, text
from harness.report.render.tables.table import Cell, Column, ColumnOf, Table, table_of


def selection_table(rows: Sequence[SelectionRow]) -> Table:
    """A line per subset that was selected by scores."""
    columns: list[ColumnOf[SelectionRow]] = [
        (Column("subset", numeric=False), lambda row: text(row.subset)),
        (Column("scores", numeric=False), lambda row: text(", ".join(row.methods))),
        (
            Column("took part", numeric=False, hint="targets whose train and val images were seen"),
            lambda row: optional_text(", ".join(row.seen)),
        ),
        (
            Column("took no part", numeric=False, hint="other targets of the transfers"),
            lambda row: optional_text(", ".join(row.unseen)),
        ),
        (
            Column("classes"),
            lambda row: _count(row.num_classes),
        ),
        (
            Column("training images"),
            lambda row: _count(row.num_images),
        ),
    ]
    return table_of(
        "selections",
        "Subsets selected by scores",
        rows,
        columns,
        "No selection sees a test image. On a target that took part, a gain may come from that "
        "target's own train and val images; on one that took no part, it cannot.",
    )


def class_score_table(rows: Sequence[ClassScoreRow]) -> Table:
    """A line per class with one of the highest or lowest scores."""
    columns: list[ColumnOf[ClassScoreRow]] = [
        (Column("scores", numeric=False), lambda row: text(row.method)),
        (Column("target", numeric=False), lambda row: text(", ".join(row.targets))),
        (Column("class", numeric=False), lambda row: text(row.name)),
        (Column("words", numeric=False), lambda row: optional_text(row.words)),
        (
            Column("score", hint="influence: points of accuracy; mapping: percent of the images"),
            lambda row: Cell(f"{100 * row.score:.2f}", sort=row.score),
        ),
        (
            Column("95 % interval"),
            lambda row: (
                NONE
                if row.low_95 is None or row.high_95 is None
                else Cell(f"{100 * row.low_95:.2f} to {100 * row.high_95:.2f}", sort=row.low_95)
            ),
        ),
    ]
    return table_of(
        "class-scores",
        f"The {NUM_SHOWN} highest and lowest classes of each selection",
        rows,
        columns,
        "Intervals are percentile bootstraps over models, one class at a time: among 1000 classes "
        "without influence, about 50 exclude zero.",
    )


def _count(value: int | None) -> Cell:
    return NONE if value is None else number(value)
