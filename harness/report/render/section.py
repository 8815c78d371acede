"""A section of the report: what it found, its plots and its tables, whatever form the report then takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.report.render.figures.plot import Panel
from harness.report.render.tables.table import Table


@dataclass(frozen=True)
class LegendEntry:
    """A name, and before it one of: a sign in a colour of the page, a dashed line, a square of a span's colour."""

    text: str
    sign: str = ""
    colour: str = ""  # a CSS variable, without its dashes
    dash: str | None = None  # stroke-dasharray; "" is a solid line
    swatch: str = ""  # name of a span


@dataclass(frozen=True)
class Fold:
    """Tables and plots that open on demand."""

    title: str
    tables: tuple[Table, ...] = ()
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class Section:
    """Shown only where something is in it, or `nothing` says why not."""

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

    def without_sentences(self, said: Sequence[str]) -> "Section":
        """Itself, less what has been said before."""
        return replace(
            self, sentences=tuple(sentence for sentence in self.sentences if sentence not in said)
        )

    @property
    def all_panels(self) -> tuple[Panel, ...]:
        return self.panels + tuple(panel for fold in self.folds for panel in fold.panels)

    @property
    def all_tables(self) -> list[Table]:
        return [
            table
            for table in (*self.tables, *(table for fold in self.folds for table in fold.tables))
            if table.rows
        ]

    @property
    def is_empty(self) -> bool:
        return not (self.sentences or self.all_panels or self.all_tables)
