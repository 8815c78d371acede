"""Tables about architectures: wins of methods, and steps to most of the final odds."""

from collections.abc import Sequence

from harness.report.render.tables.cells import NONE, number, percent, text
from harness.report.render.tables.table import Cell, Column, ColumnOf, Table, table_of
from harness.report.stats.architectures import ALL_TARGETS, SignRow
from harness.report.stats.convergence import FRACTION, Convergence
from harness.report.stats.leaderboard import TOP
from harness.report.stats.top_counts import TopCount


def sign_table(rows: Sequence[SignRow]) -> Table:
    """Wins of each method over each other: a line per target, a column per pair."""
    pairs = list(dict.fromkeys((row.method, row.baseline) for row in rows))
    targets = list(dict.fromkeys(row.target for row in rows))
    cells = {(row.method, row.baseline, row.target): _wins(row) for row in rows}
    columns = (
        Column("target", numeric=False),
        *(Column(f"over {baseline}", group=method) for method, baseline in pairs),
    )
    lines = tuple(
        (
            text("all targets" if target == ALL_TARGETS else target),
            *(cells.get((*pair, target), NONE) for pair in pairs),
        )
        for target in targets
    )
    note = (
        "Pairs of architecture and target, means over seeds. Each architecture counts once, "
        "by its first model. Pairs share targets, so there is no test."
    )
    return Table("signs", "How often one method beats another", columns, lines, note)


def _wins(row: SignRow) -> Cell:
    ties = f"{row.ties} equal" if row.ties else ""
    return Cell(f"{row.wins} of {row.num_pairs}", sort=row.wins / row.num_pairs, below=ties)


def top_table(rows: Sequence[TopCount]) -> Table:
    """Models by the number of targets on which a score puts them among the best."""
    columns: list[ColumnOf[TopCount]] = [
        (Column("model", numeric=False), lambda row: text(row.model)),
        (
            Column(f"in top {TOP}", hint="targets on which the model is among the best"),
            lambda row: number(row.times_in_top),
        ),
        (Column("targets"), lambda row: number(row.num_targets)),
    ]
    score = rows[0].score if rows else ""
    note = "Models that tie for the last place all count."
    return table_of("top-counts", f"Times among the {TOP} best by {score}", rows, columns, note)


def convergence_table(rows: Sequence[Convergence]) -> Table:
    """Steps of each method to most of its final odds, a line per model, target and method."""
    columns: list[ColumnOf[Convergence]] = [
        (Column("model", numeric=False), lambda row: text(row.model)),
        (Column("target", numeric=False), lambda row: text(row.target)),
        (Column("method", numeric=False), lambda row: text(row.method)),
        (Column("steps", hint=f"to {100 * FRACTION:g} % of the final odds"), _steps),
        (
            Column("final", hint="percent, in the target's metric"),
            lambda row: Cell(percent(row.final_score, 1), sort=row.final_score),
        ),
        (Column("at steps"), lambda row: number(row.num_steps)),
        (Column("lengths", hint="numbers of steps that were measured"), _num_points),
    ]
    note = (
        "Odds are p / (1 - p). Between two measured lengths, log-odds are interpolated over "
        "log(steps). ≤: the shortest measured length reached them."
    )
    title = f"Steps to {100 * FRACTION:g} % of the final odds"
    return table_of("convergence", title, rows, columns, note)


def _steps(row: Convergence) -> Cell:
    sign = "≤ " if row.steps is None else ""
    return Cell(f"{sign}{row.bound:,.0f}", sort=row.bound)


def _num_points(row: Convergence) -> Cell:
    return number(row.num_points)
