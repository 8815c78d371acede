"""Build the table that compares transfer with training from scratch."""

from collections.abc import Sequence

from harness.report.render.tables.cells import interval_cell, percent_cell, points, text
from harness.report.render.tables.table import Cell, Column, ColumnOf, Table, filled, table_of
from harness.report.stats.comparisons import ScratchComparison


def scratch_table(rows: Sequence[ScratchComparison]) -> Table:
    """Transfer against training the same architecture from random weights."""
    columns: list[ColumnOf[ScratchComparison]] = [
        (Column("target", numeric=False), lambda row: text(row.target)),
        *(
            [(Column("model", numeric=False), lambda row: text(row.model))]
            if len({row.model for row in rows}) > 1
            else []
        ),
        (Column("method", numeric=False), lambda row: text(row.method)),
        (Column("transfer", hint="percent"), lambda row: percent_cell(row.transfer)),
        (Column("scratch", hint="percent"), lambda row: percent_cell(row.scratch)),
        *(
            [(Column("scratch method", numeric=False), lambda row: text(row.scratch_method))]
            if len({row.scratch_method for row in rows}) > 1
            else []
        ),
        (
            Column("difference", hint="percentage points"),
            lambda row: Cell(points(row.difference), sort=row.difference),
        ),
        (
            Column("95 % interval", hint="Welch, over seeds"),
            lambda row: interval_cell(
                row.low_95, row.high_95, row.low_95, Cell(row.verdict, absent=True)
            ),
        ),
        (
            Column("tried", hint="configurations of transfer; below: of scratch, if they differ"),
            _tried_cell,
        ),
        (
            Column("transfer is", numeric=False),
            lambda row: text(row.verdict, "" if row.is_matched else "tuning differs"),
        ),
    ]
    return table_of(
        "against-scratch",
        "Transfer against training from scratch",
        rows,
        filled(rows, columns),
        "Negative: clearly worse than random weights. It counts as negative transfer only if both "
        "sides tried the same number of configurations.",
    )


def _tried_cell(row: ScratchComparison) -> Cell:
    is_equal = row.num_configs == row.num_configs_scratch
    below = "" if is_equal else f"scratch {row.num_configs_scratch:,}"
    return Cell(f"{row.num_configs:,}", sort=float(row.num_configs), below=below)
