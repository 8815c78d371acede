"""Build the sections that answer the questions of single studies."""

from collections.abc import Sequence
from dataclasses import replace

from harness.report.render.section import Fold, Section
from harness.report.render.tables import architectures as architecture_tables
from harness.report.render.tables import budgets as budget_tables
from harness.report.render.tables.table import Table
from harness.report.stats.analysis import Analysis
from harness.report.stats.budgets import BudgetScore
from harness.report.text import study_findings

_MAX_OPEN_ROWS = 40  # longer tables are folded


def architectures_section(analysis: Analysis) -> Section:
    """Wins of methods over each other, for each architecture once."""
    return _with_table(
        Section("architectures", "Methods over architectures"),
        architecture_tables.sign_table(analysis.signs),
    )


def top_section(analysis: Analysis) -> Section:
    """Targets on which each model is among the best by kNN."""
    return _with_table(
        Section("top", "Most often among the best"),
        architecture_tables.top_table(analysis.top_counts),
    )


def convergence_section(analysis: Analysis) -> Section:
    """Steps to most of the final odds."""
    sentence = study_findings.about_convergence(analysis.speedups)
    return _with_table(
        Section("convergence", "Steps of training", (sentence,) if sentence else ()),
        architecture_tables.convergence_table(analysis.convergences),
    )


def budgets_section(rows: Sequence[BudgetScore]) -> Section:
    """More classes against more images per class, at equal numbers of images."""
    return _with_table(
        Section("budgets", "Equal numbers of images"), budget_tables.budget_table(rows)
    )


def _with_table(section: Section, table: Table) -> Section:
    """Show the table, folded if it is long."""
    if not table.rows:
        return section
    if len(table.rows) <= _MAX_OPEN_ROWS:
        return replace(section, tables=(table,))
    fold = Fold(f"{table.title} ({len(table.rows):,})", (table,))
    return replace(section, folds=(fold,))
