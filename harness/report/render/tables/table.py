"""Define a table as the page shows it, and format it as Markdown and CSV."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from typing import TypeVar, get_args, get_type_hints, overload

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
        detail: text that follows in a quieter color.
        below: text on a separate line in a quieter color.
        best: True for bold text.
        own: True for underlined text: the target's own metric.
        absent: True for a quieter color: there is no value.
        href: address of a link on the text, relative to the page.
        folded: (summary, text) of a part that opens by a click, such as a command.
        bar: (name of a span, percent of the cell's width) for each part of a stacked bar.
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
    href: str = ""
    folded: tuple[str, str] | None = None
    bar: tuple[tuple[str, float], ...] = ()


Line = tuple[Cell, ...]
ColumnOf = tuple[Column, Callable[[Row], Cell]]  # heading, and function that makes a row's cell


class Lines(Sequence[Line]):
    """Lines of a table, made when they are read: a page may show 1000 of 100,000 lines."""

    def __init__(self, count: int, make: Callable[[], Iterator[Line]]) -> None:
        """Keep the number of lines, and a function that makes all lines in order."""
        self._count, self._make = count, make

    def __len__(self) -> int:
        """Return the number of lines."""
        return self._count

    def __iter__(self) -> Iterator[Line]:
        """Make the lines."""
        return self._make()

    @overload
    def __getitem__(self, index: int) -> Line: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Line, ...]: ...
    def __getitem__(self, index: int | slice) -> Line | tuple[Line, ...]:
        """Return a line or a slice of lines; only lines up to the last of them are made."""
        places = range(self._count)[index]
        if isinstance(places, int):
            return next(islice(self._make(), places, None))
        made = tuple(islice(self._make(), max(places, default=-1) + 1))
        return tuple(made[place] for place in places)


@dataclass(frozen=True)
class Table:
    """A table; `name` is its id in the page."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Line]
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
        Lines(len(rows), lambda: (tuple([make(row) for _, make in columns]) for row in rows)),
        note,
    )


def filled(rows: Sequence[Row], columns: Sequence[ColumnOf[Row]]) -> list[ColumnOf[Row]]:
    """Return the columns in which a row has a value, in order."""
    return [(column, make) for column, make in columns if any(not make(row).absent for row in rows)]


def mark_best(cells: Sequence[Cell]) -> list[Cell]:
    """Mark the highest value (and the highest detail) of a column, and all ties with it.

    If all values are equal, no cell is marked.
    """
    best, detail_best = (
        _highest([cell.sort for cell in cells]),
        _highest([cell.detail_sort for cell in cells]),
    )
    return [
        replace(cell, best=is_best, detail_best=is_detail_best)
        if is_best or is_detail_best
        else cell
        for cell in cells
        for is_best in (best is not None and cell.sort == best,)
        for is_detail_best in (detail_best is not None and cell.detail_sort == detail_best,)
    ]


def _highest(values: Sequence[float | str | None]) -> float | None:
    numbers = [value for value in values if isinstance(value, float)]
    return max(numbers) if len(set(numbers)) > 1 else None


def to_markdown(table: Table) -> str:
    """Format as a GitHub table with the best values in bold; the headings' hints are below it."""
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
    """Format a cell: detail and spread follow the text, other remarks are in brackets."""
    text, *rest = map(escape_markdown, (cell.text, cell.detail, cell.below))
    detail, below = (
        part if part.startswith(("(", "±", "sd ")) or not part else f"({part})" for part in rest
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

    None and NaN become an empty cell, a tuple becomes `x;y`, and a mapping `a=1;b=2`. Numbers have
    all digits, so reading them back gives the same numbers.

    Returns:
        Parts of the UTF-8 file, in order, so that a table of a million rows is never in memory as a
        whole.
    """
    names = field_names(kind)
    values_of = attrgetter(*names)
    places = _places_of_texts(kind, names)
    yield f"{','.join(names)}\n".encode()
    last: list[object] = [None] * len(names)
    cells: list[object] = [None] * len(names)
    remaining = iter(rows)
    while chunk := list(islice(remaining, _ROWS_OF_PART)):
        lines = []
        for row in chunk:
            values = list(values_of(row))
            for place in places:
                value = values[place]
                # Most strings of a row are the same objects as in the row above, so their cells
                # are equal, too.
                if value is not last[place]:
                    last[place], cells[place] = value, _csv_value(value)
                values[place] = cells[place]
            lines.append(values)
        text = _lines_of(lines)
        if "nan" in text:  # NaN is rare, so search the text first: comparing every cell takes long
            text = _lines_of(
                [[None if value != value else value for value in line] for line in lines]
            )
        yield text.encode()


def _lines_of(lines: Iterable[Iterable[object]]) -> str:
    part = io.StringIO(newline="")
    csv.writer(part, lineterminator="\n").writerows(lines)
    return part.getvalue()


_ROWS_OF_PART = 10_000


def _places_of_texts(kind: type, names: Sequence[str]) -> list[int]:
    """Return the positions of fields that are not numbers; the module `csv` formats numbers."""
    types = get_type_hints(kind)
    numbers = {float, int, bool, type(None)}
    return [
        place
        for place, name in enumerate(names)
        if not set(get_args(types[name]) or (types[name],)) <= numbers
    ]


def _csv_value(value: object) -> object:
    if isinstance(value, dict | Mapping):
        value = ";".join([f"{name}={item}" for name, item in value.items()])
    elif isinstance(value, tuple):
        value = ";".join(map(str, value))
    return inert(value) if isinstance(value, str) else value


def csv_cell(value: object) -> str:
    """Format one cell as `to_csv` does, with quotes if they are needed."""
    return csv_text(value) if isinstance(value, str) else _written(_csv_value(value))


@lru_cache(maxsize=4096)
def csv_text(text: str) -> str:
    """Format a cell of text as `csv_cell` does, faster if the same text was formatted before."""
    return _written(inert(text))


def _written(value: object) -> str:
    line = io.StringIO(newline="")
    # Add a second cell, because `csv` would quote a line of one empty cell.
    csv.writer(line, lineterminator="\n").writerow((value, 0))
    return line.getvalue().removesuffix(",0\n")


@lru_cache(maxsize=4096)
def inert(text: str) -> str:
    """Return a CSV cell that no spreadsheet runs: put an apostrophe before =, +, @, and - in text.

    Numbers keep their sign. Control characters are escaped, because people print CSV files to
    terminals.
    """
    is_formula = text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(text)
    return f"'{printable_lines(text)}" if is_formula else printable_lines(text)
