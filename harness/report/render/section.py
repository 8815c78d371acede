"""Define a section of the report in every output format: sentences, plots and tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.report.render.figures.plot import Panel
from harness.report.render.tables.table import Table

MAX_OPEN_ROWS = 40  # longer tables are folded
MAX_LOOKUP_ROWS = 12  # tables that readers search rather than read are folded if they are longer


@dataclass(frozen=True)
class LegendEntry:
    """A legend entry: a text next to a marker sign, a line or a colored square.

    Attributes:
        color: color of the sign, as the name of a CSS variable without its dashes.
        dash: stroke-dasharray of the line; "" is solid, None means no line.
        swatch: name of the timing span that gives the square its color.
    """

    text: str
    sign: str = ""
    color: str = ""
    dash: str | None = None
    swatch: str = ""


@dataclass(frozen=True)
class Fold:
    """Tables and plots that the reader opens on demand."""

    title: str
    tables: tuple[Table, ...] = ()
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class Section:
    """One section. An empty section is shown only if `nothing` explains why it is empty."""

    name: str
    title: str
    sentences: tuple[str, ...] = ()
    legend: tuple[LegendEntry, ...] = ()
    panels: tuple[Panel, ...] = ()
    panel_note: str = ""
    tables: tuple[Table, ...] = ()
    folds: tuple[Fold, ...] = ()
    note: str = ""
    nothing: str = ""

    def without_sentences(self, excluded: Sequence[str]) -> "Section":
        """Return a copy without the excluded sentences."""
        kept = tuple(sentence for sentence in self.sentences if sentence not in excluded)
        return replace(self, sentences=kept)

    @property
    def all_panels(self) -> tuple[Panel, ...]:
        """Plots of the section and its folds."""
        return self.panels + tuple(panel for fold in self.folds for panel in fold.panels)

    @property
    def all_tables(self) -> list[Table]:
        """Tables of the section and its folds that have rows."""
        tables = (*self.tables, *(table for fold in self.folds for table in fold.tables))
        return [table for table in tables if table.rows]

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to show."""
        return not (self.sentences or self.all_panels or self.all_tables)


def table_section(name: str, title: str, table: Table, sentence: str = "") -> Section:
    """Make a section of one table, folded if it is long."""
    return Section(
        name,
        title,
        (sentence,) if sentence else (),
        tables=if_short(table),
        folds=folds(*if_long(table)),
    )


def if_short(table: Table, max_rows: int = MAX_OPEN_ROWS) -> tuple[Table, ...]:
    """Return the table if it has 1 to `max_rows` rows, otherwise nothing."""
    return (table,) if 0 < len(table.rows) <= max_rows else ()


def if_long(table: Table, max_rows: int = MAX_OPEN_ROWS) -> tuple[Table, ...]:
    """Return the table if it has more than `max_rows` rows, otherwise nothing."""
    return (table,) if len(table.rows) > max_rows else ()


def folds(*tables: Table) -> tuple[Fold, ...]:
    """Make a fold of each table that has rows."""
    return tuple(
        Fold(f"{table.title} ({len(table.rows):,})", (table,)) for table in tables if table.rows
    )
