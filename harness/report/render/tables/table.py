"""A table as a person reads it, and the two plain forms it can take: Markdown, and CSV of the rows behind it."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Column:
    label: str
    group: str = ""  # neighbours with the same group share a heading above theirs
    numeric: bool = True
    hint: str = ""  # shown when the heading is pointed at


@dataclass(frozen=True)
class Cell:
    text: str
    sort: float | str | None = (
        None  # what sorting compares; None sorts last, whatever the direction
    )
    detail: str = ""  # after the text, quieter
    detail_sort: float | None = None
    below: str = ""  # on a line of its own, quieter
    best: bool = False
    detail_best: bool = False
    own: bool = False  # underlined: the number to look at
    absent: bool = False
    bar: tuple[
        tuple[str, float], ...
    ] = ()  # (name of a span, its share of the cell's width in percent)


@dataclass(frozen=True)
class Table:
    name: str  # its id in the page
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(heading, number of columns) of the upper header line; empty where no column has a group."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(group for group, _ in spans) else []


def mark_best(cells: Sequence[Cell]) -> list[Cell]:
    """The highest value (and detail) marked, ties all. Where there is nothing to choose from, nothing is marked."""
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
    """A GitHub table; best values bold. What a page shows when a heading is pointed at stands below."""
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
    """A second number and a spread stand behind the first; any other remark in brackets."""
    text, *rest = map(escape_markdown, (cell.text, cell.detail, cell.below))
    detail, below = (
        part if part.startswith(("/", "±")) or not part else f"({part})" for part in rest
    )
    text = f"**{text}**" if cell.best and text else text
    detail = f"**{detail}**" if cell.detail_best and detail else detail
    return " ".join(part for part in (text, detail, below) if part)


def escape_markdown(text: str) -> str:
    """Text that stays text: no HTML, no table bars, no emphasis, on one line."""
    for character in "\\`*_[]|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def to_csv(kind: type, rows: Sequence[Any]) -> str:
    """Rows (dataclasses of type `kind`) under their field names; None is an empty cell, lists become `x;y`, mappings `a=1;b=2`.

    Numbers are written in full, so that reading them back gives the same numbers.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_csv_value(getattr(row, name)) for name in names] for row in rows)
    return text.getvalue()


def _csv_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ";".join(f"{name}={item}" for name, item in value.items())
    return ";".join(map(str, value)) if isinstance(value, tuple) else value
