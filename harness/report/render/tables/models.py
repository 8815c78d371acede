"""Build tables on models: rankings, kinds of training, wins of methods, and numbers of images."""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from harness.report.data.records import SourceAccuracyRow, format_eps
from harness.report.render.tables.cells import (
    NONE,
    decimal,
    number,
    optional_text,
    percent_cell,
    points,
    size_cell,
    text,
)
from harness.report.render.tables.table import Cell, Column, ColumnOf, Table, table_of
from harness.report.stats.architectures import ALL_TARGETS, Association, SignRow
from harness.report.stats.budgets import BudgetScore
from harness.report.stats.convergence import FRACTION, Convergence
from harness.report.stats.leaderboard import TOP, RankedModel, SeedMedian
from harness.report.stats.training_kinds import TrainingGroup
from harness.report.text.phrases import bounded, correlation, signed
from writers.text_names import percent

_BUDGETS = {"classes": "all images of fewer classes", "examples": "fewer images of all classes"}
_MEASURED_HINT = "; measured: on the source's val images, here; otherwise as published"


def ranking_table(rows: Sequence[RankedModel], measured: Collection[str] = ()) -> Table:
    """Models of every method, best first.

    Args:
        rows: the models.
        measured: loaded models (of the recipe's `models`) whose accuracy on the source dataset was
            measured; their cells are marked.
    """
    columns: list[ColumnOf[RankedModel]] = [
        (Column("model", numeric=False), lambda row: text(row.model)),
        (Column("method", numeric=False), lambda row: text(row.method)),
        (
            Column(
                "Elo",
                hint="log odds of winning against an average model",
            ),
            lambda row: Cell(
                signed(row.elo, 2),
                sort=row.elo,
                below="all won or all lost" if row.elo_standard_error is None else "",
            ),
        ),
        (
            Column(
                "mean transfer",
                hint="percent, averaged as logits over targets; below: standard error of the "
                "logit, Morey",
            ),
            lambda row: Cell(
                _percent_of(row.mean_logit),
                sort=row.mean_logit,
                below=""
                if row.standard_error is None
                else f"error {bounded(row.standard_error, 2)} logits",
            ),
        ),
        (Column("targets"), lambda row: number(row.num_targets)),
        (
            Column(f"in top {TOP}", hint="targets on which the model is among the best"),
            lambda row: number(row.times_in_top),
        ),
        (
            Column("source top-1", hint=f"percent{_MEASURED_HINT if measured else ''}"),
            lambda row: replace(
                percent_cell(row.source_accuracy),
                below="measured" if row.model in measured else "",
            ),
        ),
    ]
    return table_of(
        "standings",
        "Models, strongest first",
        rows,
        columns,
        "Elo: every two models meet on every target and seed, and the better score wins; a tie is "
        "half a win each. Elo has no interval: the usual one assumes independent matches, and "
        "matches on one target are not independent.",
    )


def source_accuracy_table(rows: Sequence[SourceAccuracyRow]) -> Table:
    """Accuracy of loaded models on the source, published and measured."""
    columns: list[ColumnOf[SourceAccuracyRow]] = [
        (Column("model", numeric=False), lambda row: text(row.model)),
        (Column("published", hint="top-1, percent"), lambda row: percent_cell(row.published)),
        (Column("measured", hint="top-1, percent"), lambda row: percent_cell(row.measured)),
        (
            Column("difference", hint="measured minus published, points"),
            lambda row: (
                NONE
                if row.difference is None
                else Cell(points(row.difference), sort=row.difference)
            ),
        ),
        (Column("images"), lambda row: number(row.num_images)),
        (Column("resolution", hint="pixels per side"), lambda row: number(row.resolution)),
        (Column("not measured", numeric=False), lambda row: optional_text(row.not_measured)),
    ]
    return table_of(
        "source-accuracy",
        "Accuracy of loaded models on the source",
        rows,
        columns,
        "Measured here on the source's val images, in each model's own resolution and crop. The "
        "images may have been reduced in size and encoded again, which published accuracies do "
        "not include. If there is a measured accuracy, the report uses it.",
    )


def training_table(rows: Sequence[TrainingGroup]) -> Table:
    """Loaded models by kind of training, for every method."""
    columns: list[ColumnOf[TrainingGroup]] = [
        (Column("method", numeric=False), lambda row: text(row.method)),
        (Column("training", numeric=False), lambda row: text(row.training)),
        (Column("models"), lambda row: number(row.num_models)),
        (
            Column("mean transfer", hint="percent, averaged as logits over models and targets"),
            lambda row: Cell(_percent_of(row.mean_logit), sort=row.mean_logit),
        ),
        (
            Column("best model", numeric=False, hint="below: its mean over targets, percent"),
            lambda row: text(row.best, below=_percent_of(row.best_logit)),
        ),
        (
            Column(
                "against supervised",
                hint="difference of the means in logits; below: Welch's 95 % interval over models",
            ),
            _against_supervised,
        ),
        (
            Column(
                "same architectures",
                hint="difference in logits, over architectures that both groups have; below: "
                "their number",
            ),
            lambda row: (
                NONE
                if row.within_networks is None
                else Cell(
                    signed(row.within_networks, 2),
                    sort=row.within_networks,
                    below=f"{row.num_networks:,} architecture{'s' * (row.num_networks != 1)}",
                )
            ),
        ),
    ]
    return table_of(
        "training",
        "Models by kind of training",
        rows,
        columns,
        "The unit is the model. Groups also differ in their architectures; the last column "
        "compares equal ones.",
    )


def _against_supervised(row: TrainingGroup) -> Cell:
    if row.difference is None:
        return NONE
    low, high = signed(row.difference.low, 2), signed(row.difference.high, 2)
    return Cell(signed(row.difference.mean, 2), sort=row.difference.mean, below=f"{low} to {high}")


def _percent_of(logit: float) -> str:
    return percent(1 / (1 + math.exp(-logit)), 1)


def association_table(rows: Sequence[Association]) -> Table:
    """Correlation of transfer with source accuracy, one line per method."""
    columns: list[ColumnOf[Association]] = [
        (Column("method", numeric=False), lambda row: text(row.method)),
        (
            Column("r", hint="Pearson, logits on both sides"),
            lambda row: Cell(correlation(row.r), sort=row.r),
        ),
        (
            Column("95 % interval"),
            lambda row: Cell(
                f"{correlation(row.low_95)} to {correlation(row.high_95)}", sort=row.low_95
            ),
        ),
        (Column("rho", hint="Spearman"), lambda row: decimal(row.rho)),
        (Column("architectures"), lambda row: number(row.num_models)),
        (Column("targets"), lambda row: number(row.num_targets)),
        (
            Column(
                "left out",
                numeric=False,
                hint="source accuracy unknown, or targets missing",
            ),
            lambda row: optional_text(", ".join(row.left_out)),
        ),
    ]
    return table_of(
        "associations",
        "Transfer and source accuracy",
        rows,
        columns,
        "Each architecture counts once, with one model, if possible one with a known source "
        "accuracy.",
    )


def sign_table(rows: Sequence[SignRow]) -> Table:
    """Count the wins of each pair of methods: a line per target, a column per pair."""
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
        "Pairs of architecture and target, means over seeds. Each architecture counts once, with "
        "one model, if possible one with a known source accuracy. Pairs share targets, so there is "
        "no test."
    )
    return Table("signs", "How often one method beats another", columns, lines, note)


def _wins(row: SignRow) -> Cell:
    ties = f"{row.ties:,} equal" if row.ties else ""
    return Cell(f"{row.wins:,} of {row.num_pairs:,}", sort=row.wins / row.num_pairs, below=ties)


def convergence_table(rows: Sequence[Convergence]) -> Table:
    """List the steps that reach most of the odds of the final score: a line per learning curve."""
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
    if any(row.per_class for row in rows):
        hint = "training images of each class"
        columns.insert(3, (Column("per class", hint=hint), lambda row: size_cell(row.per_class)))
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


def budget_table(rows: Sequence[BudgetScore]) -> Table:
    """Compare fewer classes with fewer images per class, with a column per number of images.

    Each target, method and model has two lines.
    """
    sizes = sorted({row.num_images for row in rows}, reverse=True)
    groups = list(dict.fromkeys(_budget_group(row) for row in rows))
    cells = {(_budget_group(row), row.by, row.num_images): _budget_cell(row) for row in rows}
    columns = (
        *(Column(label, numeric=False) for label in ("target", "method", "model", "images")),
        *(Column(f"{size:,}", group="pretraining images") for size in sizes),
    )
    lines = tuple(
        (
            *(text(part) for part in group),
            text(label),
            *(cells.get((group, by, size), NONE) for size in sizes),
        )
        for group in groups
        for by, label in _BUDGETS.items()
    )
    note = "Percent in the target's metric, means over seeds."
    if any(row.published is not None for row in rows):
        note += (
            " Published: Huh et al. 2016, AlexNet, detection on PASCAL VOC 2007 (Fast R-CNN, mean "
            "average precision) and scenes of SUN. Their networks differ, so compare the order "
            "and the trend."
        )
    return Table("budgets", "More classes or more images per class", columns, lines, note)


def _budget_group(row: BudgetScore) -> tuple[str, str, str]:
    eps = f"eps {format_eps(row.eps)}" if row.eps else ""
    model = " ".join(part for part in (row.arch, row.variant, eps) if part)
    return row.target, row.method, model


def _budget_cell(row: BudgetScore) -> Cell:
    below = "" if row.published is None else f"published {row.published:.1f}"
    return Cell(percent(row.score, 1), sort=row.score, below=below)


def median_table(rows: Sequence[SeedMedian]) -> Table:
    """For each model, the median over seeds on each target, averaged over targets."""
    columns: list[ColumnOf[SeedMedian]] = [
        (Column("model", numeric=False), lambda row: text(row.model)),
        (Column("method", numeric=False), lambda row: text(row.method)),
        (Column("targets"), lambda row: number(row.num_targets)),
        (Column("seeds"), lambda row: number(row.num_seeds)),
        (Column("mean of medians", hint="percent"), lambda row: percent_cell(row.score)),
    ]
    note = "Of each target the median over seeds, then the mean over targets in their own metrics."
    return table_of("medians", "Medians over seeds", rows, columns, note)
