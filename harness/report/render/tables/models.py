"""Statistics to tables: comparisons over targets, tests on images, rankings of models, predictors, transfer against scratch."""

import math
from collections.abc import Callable, Sequence

from harness.config.recipe import Recipe, ShortlistSettings
from harness.report.data.rows import ScoreRow, Source, TransferRow, shown_eps
from harness.report.render.tables.accuracy import NONE, OfModel, percent, subset_cell, variant_cell
from harness.report.render.tables.runs import points
from harness.report.render.tables.table import Cell, Column, Table, mark_best
from harness.report.stats.comparisons import FEWEST_RESAMPLED, AgainstScratch, Comparison
from harness.report.stats.image_tests import MOST_TESTS, ImageTest
from harness.report.stats.intervals import estimate, is_near_chance
from harness.report.stats.leaderboard import TOP, Association, Standing
from harness.report.stats.predictors import Power

KNN = "knn"


def comparison_table(found: Sequence[Comparison]) -> Table:
    columns = (
        Column("change", numeric=False),
        Column("transferred by", numeric=False),
        Column("targets"),
        Column("seeds"),
        Column("difference", hint="percentage points, mean over targets"),
        Column("95 % interval", hint="t interval over targets"),
        Column("bootstrap", hint="95 % interval, seeds and targets resampled"),
        Column("better in", hint="of all runs (target, model, seed)"),
        Column("p, t", hint="paired t-test over targets, on logits"),
        Column("Holm", hint="p, t for all lines together"),
    )
    lines = []
    for one in found:
        change = f"{'eps ' if one.axis == 'eps' else ''}{one.setting or 'plain'} instead of {one.baseline or 'plain'}"
        half = one.half_width_95
        low, high = one.bootstrap_low, one.bootstrap_high
        lines.append(
            (
                Cell(change, sort=change),
                Cell(one.method or "–", sort=one.method, absent=not one.method),
                number(one.num_targets),
                number(one.num_seeds),
                Cell(
                    points(one.difference),
                    sort=one.difference,
                    best=one.p_holm is not None and one.p_holm < 0.05,
                ),
                Cell(
                    f"{points(one.difference - half)} to {points(one.difference + half)}", sort=half
                )
                if half is not None
                else NONE,
                Cell(f"{points(low)} to {points(high)}", sort=high - low)
                if low is not None and high is not None
                else NONE,
                Cell(
                    f"{one.wins} of {one.num_pairs}",
                    sort=one.wins / one.num_pairs,
                    below=_ties(one.ties),
                ),
                p_value(one.p),
                p_value(one.p_holm),
            )
        )
    return Table(
        "comparisons",
        "Settings compared over targets",
        columns,
        tuple(lines),
        "Percentage points in the targets' own metrics; bold: p below 0.05 after Holm. Intervals are of each line by "
        f"itself, the bootstrap's from {FEWEST_RESAMPLED} targets on.",
    )


def _ties(number_of: int) -> str:
    return f"{number_of} tie{'s' * (number_of > 1)}" * bool(number_of)


def image_test_table(found: Sequence[ImageTest]) -> Table:
    columns = (
        Column("target", numeric=False),
        Column("change", numeric=False),
        Column("transferred by", numeric=False),
        Column("model", numeric=False),
        Column("images"),
        Column("seeds"),
        Column("only the first right", hint="images, over all seeds"),
        Column("only the second"),
        Column("difference", hint="percentage points of the target's own metric"),
        Column("test", numeric=False),
        Column("p"),
        Column("Holm", hint="p for all lines together"),
    )
    lines = []
    for one in found:
        change = f"{'eps ' if one.axis == 'eps' else ''}{one.setting} against {one.baseline}"
        lines.append(
            (
                Cell(one.target, sort=one.target),
                Cell(change, sort=change),
                Cell(one.method, sort=one.method) if one.method else NONE,
                Cell(one.model, sort=one.model) if one.model else NONE,
                number(one.num_images),
                number(one.num_seeds),
                number(one.only_setting),
                number(one.only_baseline),
                Cell(points(one.difference), sort=one.difference, best=one.p_holm < 0.05),
                Cell(one.test, sort=one.test),
                p_value(one.p),
                p_value(one.p_holm),
            )
        )
    note = (
        "Test images as the sample: whether these runs answer differently, not whether other seeds would. Bold: p below "
        "0.05 after Holm."
    )
    if len(found) == MOST_TESTS:
        note += f" The first {MOST_TESTS:,} tests; the recipe has more."
    return Table("image-tests", "Each target, image by image", columns, tuple(lines), note)


def standing_table(found: Sequence[Standing]) -> Table:
    columns = (
        Column("model", numeric=False),
        Column("method", numeric=False),
        Column(
            "Elo", hint="log odds of winning against an average model; ± half a 95 % Wald interval"
        ),
        Column(
            "mean transfer",
            hint="percent, averaged as logits over targets; ± one standard error on logits, Morey",
        ),
        Column("targets"),
        Column(f"in top {TOP}", hint="targets on which the model is among the best"),
        Column("source top-1", hint="percent"),
    )
    lines = tuple(
        (
            Cell(one.model, sort=one.model),
            Cell(one.method, sort=one.method),
            Cell(
                f"{one.elo:+.2f}".replace("-", "−"),
                sort=one.elo,
                below="all won or all lost"
                if one.elo_standard_error is None
                else f"± {1.96 * one.elo_standard_error:.2f}",
            ),
            Cell(
                percent(1 / (1 + math.exp(-one.mean_logit)), 1),
                sort=one.mean_logit,
                below="" if one.standard_error is None else f"± {one.standard_error:.2f} logits",
            ),
            number(one.num_targets),
            number(one.times_in_top),
            Cell(percent(one.source_accuracy, 1), sort=one.source_accuracy)
            if one.source_accuracy is not None
            else NONE,
        )
        for one in found
    )
    return Table(
        "standings",
        "Models, strongest first",
        columns,
        lines,
        "Elo: every two models meet on every target and seed, and the better score wins; a tie is half a win each. "
        "The errors take matches as independent, which those of one target are not: they are too small.",
    )


def association_table(found: Sequence[Association]) -> Table:
    columns = (
        Column("method", numeric=False),
        Column("r", hint="Pearson, logits on both sides"),
        Column("95 % interval"),
        Column("rho", hint="Spearman"),
        Column("models"),
        Column("targets"),
    )
    return Table(
        "associations",
        "Transfer and source accuracy",
        columns,
        tuple(
            (
                Cell(one.method, sort=one.method),
                _decimal(one.r),
                Cell(f"{one.low_95:.2f} to {one.high_95:.2f}", sort=one.low_95),
                _decimal(one.rho),
                number(one.num_models),
                number(one.num_targets),
            )
            for one in found
        ),
    )


def power_table(found: Sequence[Power], shortlist: ShortlistSettings | None) -> Table:
    columns = (
        Column("predictor", numeric=False),
        Column("of", numeric=False),
        Column("weighted Kendall", hint="mean over targets; ± half a 95 % t interval over them"),
        Column("Pearson"),
        Column("Spearman"),
        Column("recall@k", hint="share of the k best models among the k best by the predictor"),
        Column(
            "rel@k", hint="best accuracy among the k best by the predictor, over the best of all"
        ),
        Column("k"),
        Column("targets"),
        Column("models"),
    )
    note = ""
    if shortlist is not None:
        note = f"{', '.join(shortlist.methods)}: among the {shortlist.best} models that {shortlist.by} had chosen."
    return Table(
        "predictors",
        "What cheap scores predict",
        columns,
        tuple(
            (
                Cell(one.predictor, sort=one.predictor),
                Cell(one.method, sort=one.method),
                _decimal(
                    one.weighted_kendall,
                    "" if one.half_width_95 is None else f"± {one.half_width_95:.2f}",
                ),
                _decimal(one.pearson),
                _decimal(one.spearman),
                _decimal(one.recall_at_k),
                _decimal(one.relative_accuracy_at_k),
                number(one.k),
                number(one.num_targets),
                number(one.num_models),
            )
            for one in found
        ),
        note,
    )


def scratch_table(found: Sequence[AgainstScratch]) -> Table:
    columns = (
        Column("target", numeric=False),
        Column("model", numeric=False),
        Column("method", numeric=False),
        Column("transfer", hint="percent"),
        Column("scratch", hint="percent"),
        Column("difference", hint="percentage points"),
        Column("95 % interval", hint="Welch, over seeds"),
        Column("tried", hint="configurations: transfer / scratch"),
        Column("transfer is", numeric=False),
    )
    lines = tuple(
        (
            Cell(one.target, sort=one.target),
            Cell(one.model, sort=one.model),
            Cell(one.method, sort=one.method),
            Cell(percent(one.transfer, 1), sort=one.transfer),
            Cell(percent(one.scratch, 1), sort=one.scratch),
            Cell(
                points(one.difference),
                sort=one.difference,
                best=one.verdict in ("negative", "positive"),
            ),
            Cell(f"{points(one.low_95)} to {points(one.high_95)}", sort=one.low_95)
            if one.low_95 is not None and one.high_95 is not None
            else Cell("one run", absent=True),
            Cell(f"{one.num_configs} / {one.num_configs_scratch}", sort=float(one.num_configs)),
            Cell(one.verdict, sort=one.verdict, below="" if one.is_matched else "tuning differs"),
        )
        for one in found
    )
    return Table(
        "against-scratch",
        "Transfer against training from scratch",
        columns,
        lines,
        "Negative: clearly worse than random weights. Counted as negative transfer only where both sides tried "
        "as many configurations.",
    )


def score_table(recipe: Recipe, rows: Sequence[ScoreRow]) -> Table:
    """A line for each model but for its seed, a column for each target and score; the CSV has variants such as knn_k5, too."""
    names = {row.name for row in rows}
    rows = [row for row in rows if not any(row.name.startswith(f"{name}_") for name in names)]
    places = list(dict.fromkeys((row.target, row.name) for row in rows))
    lines: dict[Source, dict[tuple[str, str], list[ScoreRow]]] = {}
    for row in rows:
        lines.setdefault(row.source, {}).setdefault((row.target, row.name), []).append(row)
    shown = model_columns([next(iter(cells.values()))[0] for cells in lines.values()])
    columns = (
        *(column for column, _ in shown),
        *(Column(name, group=target) for target, name in places),
    )
    scored = [
        mark_best(
            [
                _value_cell(cells[place], len(recipe.seeds)) if place in cells else NONE
                for cells in lines.values()
            ]
        )
        for place in places
    ]
    described = [
        [cell_of(next(iter(cells.values()))[0]) for cells in lines.values()] for _, cell_of in shown
    ]
    note = "On the train split of the target; higher is better, best of each column in bold."
    note += (
        " knn: percent whose nearest neighbour is of their class."
        if KNN in {name for _, name in places}
        else ""
    )
    note += (
        " °: not clearly above chance."
        if any("°" in cell.text for column in scored for cell in column)
        else ""
    )
    note += (
        " –: not computed."
        if any(place not in cells for cells in lines.values() for place in places)
        else ""
    )
    note += " ±: standard deviation over seeds." if len(recipe.seeds) > 1 else ""
    return Table(
        "scores", "Each model's scores", columns, tuple(zip(*described, *scored, strict=True)), note
    )


def model_columns(rows: Sequence[OfModel]) -> list[tuple[Column, Callable[[OfModel], Cell]]]:
    """What tells the models apart; an axis on which they do not differ is left out, but for the first."""
    shown: list[tuple[Column, Callable[[OfModel], Cell]]] = []
    if any(row.model for row in rows):
        shown.append(
            (
                Column("model", numeric=False),
                lambda row: Cell(row.model, sort=row.model) if row.model else NONE,
            )
        )
    if any(row.subset for row in rows):
        shown.append(
            (
                Column("training classes", numeric=False),
                lambda row: subset_cell(row) if row.subset else NONE,
            )
        )
    if len({row.variant for row in rows}) > 1:
        shown.append(
            (
                Column("variant", numeric=False),
                lambda row: variant_cell(row.variant, row.same_variants),
            )
        )
    if len({row.eps for row in rows}) > 1:
        shown.append((Column("eps"), lambda row: Cell(shown_eps(row.eps), sort=row.eps)))
    if len({row.arch for row in rows if row.arch}) > 1:
        shown.append(
            (
                Column("arch", numeric=False),
                lambda row: Cell(row.arch, sort=row.arch) if row.arch else NONE,
            )
        )
    return shown


def _value_cell(rows: Sequence[ScoreRow], num_seeds: int) -> Cell:
    """Accuracies in percent, the others as they are."""
    is_accuracy, found = rows[0].name.startswith(KNN), estimate(row.value for row in rows)

    def shown(value: float) -> str:
        return percent(value, 1) if is_accuracy else f"{value:.3f}".replace("-", "−")

    parts = [f"± {shown(found.sd)}"] if found.sd is not None else []
    if rows[0].subset and len(rows) < num_seeds:  # adopted models have no seed
        parts.append(f"{len(rows)} of {num_seeds} seeds")
    low = is_accuracy and is_near_chance(found.mean, rows[0].num_answers, rows[0].num_images or 0)
    return Cell(shown(found.mean) + "°" * low, sort=found.mean, below=", ".join(parts))


def chosen_table(rows: Sequence[TransferRow]) -> Table:
    """How often val chose each value of each axis, for methods whose grid has more axes than the learning rate."""
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in rows:
        if set(row.chosen) - {"lr"}:
            for axis, value in row.chosen.items():
                values = counts.setdefault((row.method, row.target, axis), {})
                shown = f"{value:.3g}" if isinstance(value, float) else str(value)
                values[shown] = values.get(shown, 0) + 1
    columns = (
        Column("method", numeric=False),
        Column("target", numeric=False),
        Column("setting", numeric=False),
        Column("chosen on val", numeric=False, hint="value, and in how many runs"),
    )
    return Table(
        "chosen",
        "What the grids chose",
        columns,
        tuple(
            (
                Cell(method, sort=method),
                Cell(target, sort=target),
                Cell(axis, sort=axis),
                Cell(
                    ", ".join(
                        f"{value} ({number_of})"
                        for value, number_of in sorted(
                            values.items(), key=lambda item: (-item[1], item[0])
                        )
                    ),
                    sort=next(iter(values)),
                ),
            )
            for (method, target, axis), values in counts.items()
        ),
    )


def number(value: int) -> Cell:
    return Cell(f"{value:,}", sort=float(value))


def p_value(p: float | None) -> Cell:
    """Two digits; what is smaller than anybody cares about as a bound."""
    if p is None or math.isnan(p):
        return NONE
    return Cell("< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}", sort=p)


def _decimal(value: float, below: str = "") -> Cell:
    if math.isnan(value):
        return NONE
    return Cell(f"{value:z.2f}".replace("-", "−"), sort=value, below=below)  # z: no negative zero
