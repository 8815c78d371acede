"""Format the lines of a table as HTML, several times as fast as the template engine."""

import html
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from harness.report.render.tables.table import Cell, Column
from writers.text_names import printable_lines


def table_line(
    row: Sequence[Cell], columns: Sequence[Column], attributes: Mapping[str, str] | None = None
) -> Markup:
    """Format a line as `<tr>`; its first cell is the heading of the line.

    Args:
        row: the cells.
        columns: headings of the cells.
        attributes: HTML attributes of the line, name -> value.
    """
    cells = [
        _cell(cell, column, "th" if place == 0 else "td")
        for place, (cell, column) in enumerate(zip(row, columns, strict=True))
    ]
    named = "".join(f' {name}="{_escape(value)}"' for name, value in (attributes or {}).items())
    return Markup(f"<tr{named}>{''.join(cells)}</tr>")


def _cell(cell: Cell, column: Column, tag: str) -> str:
    classes = (
        ("number", column.numeric),
        ("absent", cell.absent),
        ("own", cell.own),
        ("bars", bool(cell.bar)),
    )
    names = " ".join([name for name, applies in classes if applies])
    attributes = ' scope="row"' if tag == "th" else ""
    attributes += "" if cell.sort is None else f' data-sort="{_escape(cell.sort)}"'
    attributes += f' class="{names}"' if names else ""
    return f"<{tag}{attributes}>{_contents(cell)}</{tag}>"


def _contents(cell: Cell) -> str:
    parts = []
    if cell.bar:
        bars = [f'<i class="{span}" style="width:{share:.2f}%"></i>' for span, share in cell.bar]
        parts.append(f'<span class="bar" aria-hidden="true">{"".join(bars)}</span>')
    best = " best" if cell.best else ""
    text = _escape(cell.text)
    text = f'<a href="{_escape(cell.href)}">{text}</a>' if cell.href else text
    parts.append(f'<span class="value{best}">{text}</span>')
    if cell.detail:
        best = " best" if cell.detail_best else ""
        parts.append(f' <span class="detail{best}">{_escape(cell.detail)}</span>')
    if cell.below:
        parts.append(f"<small>{_escape(cell.below)}</small>")
    if cell.folded:
        summary, folded = map(_escape, cell.folded)
        parts.append(f"<details><summary>{summary}</summary><pre>{folded}</pre></details>")
    return "".join(parts)


def _escape(value: str | float) -> str:
    """Escape markup, and replace control characters in free text."""
    return html.escape(printable_lines(value)) if isinstance(value, str) else str(value)
