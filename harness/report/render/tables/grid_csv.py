"""Format the grids of all transfers as CSV: a million rows of a large recipe, in seconds.

The rows of a transfer differ in only a few cells. The other cells are formatted once per transfer.
The text equals that of `table.to_csv` and takes a fraction of the time.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from harness.report.data.grid_rows import Grid
from harness.report.data.records import GridRow
from harness.report.render.tables.table import csv_cell, csv_text

# Names of the cells that differ between the rows of a transfer, in the order of the columns.
_OWN = (
    *("lr", "val_top1", "val_mean_per_class", "chosen"),
    *("val_map11", "val_map50_11", "val_score", "setting"),
)
_GRIDS_OF_PART = 200  # grids that are formatted and written together


def grid_csv(grids: Iterable[Grid]) -> Iterator[bytes]:
    """Format grids as `table.to_csv` formats their rows.

    Args:
        grids: grid of each transfer.

    Returns:
        Parts of the UTF-8 file, in order.
    """
    yield f"{','.join(GridRow._fields)}\n".encode()
    remaining = iter(grids)
    while chunk := list(islice(remaining, _GRIDS_OF_PART)):
        yield "".join([_lines(grid) for grid in chunk]).encode()


def _lines(grid: Grid) -> str:
    """Format the lines of one grid. Cells that all lines share are formatted only once."""
    form = ",".join(
        [
            "{}" if name in _OWN else csv_cell(value).replace("{", "{{").replace("}", "}}")
            for name, value in zip(GridRow._fields, grid.shared, strict=True)
        ]
    )
    fill, metric, chosen = f"{form}\n".format, grid.metric, grid.chosen
    lines = []
    for setting, val in grid.points():
        top1, score = val.get("top1"), val.get(metric)
        top1_text = _number(top1)
        lines.append(
            fill(
                _number(setting.get("lr")),
                top1_text,
                _number(val.get("mean_per_class")),
                setting == chosen,
                _number(val.get("map11")),
                _number(val.get("map50_11")),
                top1_text if score is top1 else _number(score),
                csv_text(";".join([f"{axis}={value}" for axis, value in setting.items()])),
            )
        )
    return "".join(lines)


def _number(value: object) -> str:
    if type(value) is float or type(value) is int:
        return repr(value) if value == value else ""
    return "" if value is None else csv_cell(value)
