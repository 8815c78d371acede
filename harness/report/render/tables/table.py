"""A table as the page shows it, and its two plain forms: Markdown, and CSV of the rows."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from typing import TypeVar

from harness.report.data.flat import field_names
from writers.text_names import printable_lines

Row = TypeVar("Row")
_NUMBER = re.compile(r"[+-]?[\d.]+(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Column:
    """A column heading.

    Attributes:
        group: adjacent columns of the same group share a heading above theirs.
        hint: shown when the pointer is over the heading; Markdown lists it below the table.
    """

    label: str
    group: str = ""
    numeric: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        sort: value that sorting compares; None is last in both directions.
        detail: shown after the text in a quieter color.
        below: shown on a line of its own in a quieter color.
        best: bold.
        own: underlined, because it is the target's own metric.
        absent: quieter color, because there is no value.
        bar: (name of a span, percent of the cell's width) of a stacked bar.
    """

    text: str
    sort: float | str | None = None
    detail: str = ""
    detail_sort: float | None = None
    below: str = ""
    best: bool = False
    detail_best: bool = False
    own: bool = False
    absent: bool = False
    bar: tuple[tuple[str, float], ...] = ()


ColumnOf = tuple[Column, Callable[[Row], Cell]]  # a heading, and the cell of a row


@dataclass(frozen=True)
class Table:
    """A table; `name` is its id in the page."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(heading, number of columns) of the upper header line; empty if no column has a group."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(group for group, _ in spans) else []


def table_of(
    name: str, title: str, rows: Sequence[Row], columns: Sequence[ColumnOf[Row]], note: str = ""
) -> Table:
    """Build a table with one line per row."""
    return Table(
        name,
        title,
        tuple(column for column, _ in columns),
        tuple(tuple(cell_of(row) for _, cell_of in columns) for row in rows),
        note,
    )


def mark_best(cells: Sequence[Cell]) -> list[Cell]:
    """Mark the highest value (and the highest detail) of a column; ties are all marked.

    Nothing is marked if all values are equal.
    """
    best, detail_best = (
        _highest([cell.sort for cell in cells]),
        _highest([cell.detail_sort for cell in cells]),
    )
    return [
        replace(
            cell,
            best=best is not None and cell.sort == best,
            detail_best=detail_best is not None and cell.detail_sort == detail_best,
        )
        for cell in cells
    ]


def _highest(values: Sequence[float | str | None]) -> float | None:
    numbers = [value for value in values if isinstance(value, float)]
    return max(numbers) if len(set(numbers)) > 1 else None


def to_markdown(table: Table) -> str:
    """Format as a GitHub table with bold best values; hints of the headings follow below."""
    heads = [f"{column.group} {column.label}".strip() for column in table.columns]
    rules = ["---:" if column.numeric else ":---" for column in table.columns]
    lines = [heads, rules] + [[_markdown_cell(cell) for cell in row] for row in table.rows]
    lines[0] = [escape_markdown(head) for head in heads]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    hints = "; ".join(
        dict.fromkeys(f"{column.label}: {column.hint}" for column in table.columns if column.hint)
    )
    notes = "".join(f"\n{escape_markdown(note)}\n" for note in (table.note, hints) if note)
    return f"### {escape_markdown(table.title)}\n\n{text}\n{notes}"


def _markdown_cell(cell: Cell) -> str:
    """Detail and spread follow the text; other remarks are put in brackets."""
    text, *rest = map(escape_markdown, (cell.text, cell.detail, cell.below))
    detail, below = (
        part if part.startswith(("/", "±", "sd ")) or not part else f"({part})" for part in rest
    )
    text = f"**{text}**" if cell.best and text else text
    detail = f"**{detail}**" if cell.detail_best and detail else detail
    return " ".join(part for part in (text, detail, below) if part)


def escape_markdown(text: str) -> str:
    """Escape HTML, table bars, emphasis and control characters, and join lines."""
    text = printable_lines(text)
    for character in "\\`*_[]|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def to_csv(kind: type, rows: Iterable[object]) -> Iterator[bytes]:
    """Format records of type `kind` as CSV with their field names as header.

    None becomes an empty cell, a tuple `x;y`, a mapping `a=1;b=2`. Numbers are written in full, so
    reading them back gives the same numbers.

    Returns:
        Parts of the UTF-8 file, in order. A table of a million rows is never in memory as a whole.
    """
    names = field_names(kind)
    values_of = attrgetter(*names)
    yield f"{','.join(names)}\n".encode()
    last: Sequence[object] = names
    cells = list(names)
    remaining = iter(rows)
    while chunk := list(islice(remaining, _ROWS_OF_PART)):
        lines = []
        for row in chunk:
            values = values_of(row)
            # Most values of a row are the objects of the row above: their cells are equal.
            cells = [
                cell if value is above else _csv_cell(value)
                for value, above, cell in zip(values, last, cells, strict=True)
            ]
            last = values
            lines.append(",".join(cells))
        yield "".join(f"{line}\n" for line in lines).encode()


_ROWS_OF_PART = 10_000


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if type(value) is float or type(value) is int or type(value) is bool:
        return str(value)
    if isinstance(value, str):
        return _text_cell(value)
    if isinstance(value, Mapping):
        return _text_cell(";".join([f"{name}={item}" for name, item in value.items()]))
    if isinstance(value, tuple):
        return _text_cell(";".join(map(str, value)))
    return _quoted(str(value))


@lru_cache(maxsize=4096)
def _text_cell(text: str) -> str:
    return _quoted(inert(text))


def _quoted(text: str) -> str:
    """Return the cell as `csv` writes it: in quotes if it holds a comma, a quote or a line end."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow((text, ""))
    return line.getvalue().removesuffix(",\n")


def inert(text: str) -> str:
    """Return a CSV cell that no spreadsheet runs: an apostrophe precedes =, +, @, and - with text.

    Numbers keep their sign. Control characters become escapes, because people print CSV files.
    """
    is_formula = text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(text)
    return f"'{printable_lines(text)}" if is_formula else printable_lines(text)
