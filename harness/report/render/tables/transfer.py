"""Build tables on transfer: every run, settings over targets, image tests, scratch, and grids."""

import math
from collections.abc import Iterator, Sequence

from harness.config.recipe import Recipe
from harness.report.data.records import ModelId, TransferRow, format_eps
from harness.report.render.tables.cells import (
    CHANCE_NOTE,
    MIN_TOP5,
    NONE,
    SCORE_TITLES,
    decimals_for,
    interval_cell,
    number,
    optional_text,
    p_value_cell,
    points,
    size_cell,
    spread,
    subset_cell,
    text,
    variant_cell,
)
from harness.report.render.tables.table import (
    Cell,
    Column,
    ColumnOf,
    Line,
    Lines,
    Table,
    mark_best,
    table_of,
)
from harness.report.stats.comparisons import (
    Comparison,
)
from harness.report.stats.fit_measures import FitMeasure
from harness.report.stats.image_tests import MAX_TESTS, ImageTest
from harness.report.stats.intervals import is_near_chance, seed_mean
from writers.text_names import percent

SIGNIFICANCE = 0.05


def transfer_table(recipe: Recipe, rows: Sequence[TransferRow]) -> Table:
    """A line per model, target, method and size; the target's metric is underlined."""
    has_lr = any(row.lr is not None for row in rows)
    metrics = _metrics(rows)
    axes = _axis_columns(rows)
    columns = (
        *(column for column, _ in axes),
        *(Column(SCORE_TITLES[metric]) for metric in metrics),
        Column("chance", hint="percent, of the target's classes; below: number of test images"),
        *([Column("lr", hint="selected learning rate of each seed")] if has_lr else []),
        Column("tried", hint="configurations tried for each model; below: split that chose one"),
    )
    groups: dict[tuple[object, ...], dict[ModelId, list[TransferRow]]] = {}
    for row in rows:
        models = groups.setdefault((row.arch, row.target, row.method, row.size), {})
        models.setdefault(row.model_id, []).append(row)

    def lines() -> Iterator[Line]:
        for models in groups.values():
            scores = [
                [_score_cell(seeds, metric, len(recipe.seeds)) for metric in metrics]
                for seeds in models.values()
            ]
            marked = [mark_best(column) for column in zip(*scores, strict=True)]
            for seeds, *cells in zip(models.values(), *marked, strict=True):
                yield (
                    *(cell_of(seeds[0]) for _, cell_of in axes),
                    *cells,
                    *_selection_cells(seeds, has_lr),
                )

    note = "Test split, percent"
    if len(metrics) > 1:
        note += "; underlined: the target's own metric"
    if any(len(models) > 1 for models in groups.values()):
        note += "; bold: best of each target and method"
    chosen = "learning rate" if has_lr else "configuration"
    note += f". Each {chosen} was chosen on the split named, never on the test split."
    if "map11" in metrics:
        note += (
            " In multi-label targets, top-1 and top-5 count images with a present class among "
            "the predicted ones."
        )
    if "map50_11" in metrics:
        note += (
            " Boxes: mean average precision at an intersection over union of 0.5, at 11 recalls "
            "(VOC 2007) and at all; difficult objects are ignored."
        )
    if any(_is_near_chance(seeds) for models in groups.values() for seeds in models.values()):
        note += f" {CHANCE_NOTE}"
    if len(recipe.seeds) > 1:
        note += " sd: standard deviation over seeds."
    return Table(
        "transfers",
        f"Every transfer, and how its {chosen} was chosen",
        columns,
        Lines(sum(map(len, groups.values())), lines),
        note,
    )


def _metrics(rows: Sequence[TransferRow]) -> list[str]:
    """Return the metrics that are shown: those that a row has.

    The mean per class is left out if it equals top-1 in all rows and is the metric of none. Top-5
    is left out if no target has more than five classes.
    """
    repeats = all(
        row.metric != "mean_per_class"
        and (row.mean_per_class is None or math.isclose(row.mean_per_class, row.top1 or 0.0))
        for row in rows
    )
    left_out = {"mean_per_class"} if repeats else set()
    if all(_top5_is_certain(row) for row in rows):
        left_out.add("top5")
    return [
        metric
        for metric in SCORE_TITLES
        if metric not in left_out and any(getattr(row, metric) is not None for row in rows)
    ]


def _top5_is_certain(row: TransferRow) -> bool:
    return row.num_answers is not None and row.num_answers < MIN_TOP5


def _axis_columns(rows: Sequence[TransferRow]) -> list[ColumnOf[TransferRow]]:
    """Columns that identify a transfer; axes that no row has are omitted."""
    columns: list[ColumnOf[TransferRow]] = []
    if len({row.arch for row in rows if row.arch}) > 1:
        columns.append((Column("arch", numeric=False), lambda row: text(row.arch)))
    columns += [
        (Column("target", numeric=False), lambda row: text(row.target)),
        (Column("method", numeric=False), lambda row: text(row.method)),
    ]
    if any(row.model for row in rows):
        columns.append((Column("model", numeric=False), lambda row: optional_text(row.model)))
    if any(row.subset for row in rows):
        columns.append((Column("training classes", numeric=False), subset_cell))
    if any(row.eps for row in rows):
        columns.append(
            (
                Column("eps"),
                lambda row: Cell(format_eps(row.eps), sort=row.eps) if row.subset else NONE,
            )
        )
    if any(row.variant for row in rows):
        columns.append(
            (
                Column("variant", numeric=False),
                lambda row: variant_cell(row.variant, row.same_variants),
            )
        )
    if any(row.per_class for row in rows):
        columns.append(
            (
                Column("per class", hint="training images of each class"),
                lambda row: size_cell(row.per_class),
            )
        )
    if any(row.steps for row in rows):
        columns.append((Column("steps"), lambda row: size_cell(row.steps)))
    return columns


def _score_cell(rows: Sequence[TransferRow], metric: str, num_seeds: int) -> Cell:
    first = rows[0]
    if (metric == "top5" and _top5_is_certain(first)) or getattr(first, metric) is None:
        return NONE
    score = seed_mean(getattr(row, metric) for row in rows)
    decimals = decimals_for(row.num_images for row in rows)
    is_low = metric == first.metric and _is_near_chance(rows)
    return Cell(
        percent(score.mean, decimals) + ("°" if is_low else ""),
        sort=score.mean,
        below=spread((score,), decimals, num_seeds),
        own=metric == first.metric,
    )


def _is_near_chance(rows: Sequence[TransferRow]) -> bool:
    """Return True if the mean top-1 of these seeds is not clearly above chance."""
    first = rows[0]
    return first.top1 is not None and is_near_chance(
        seed_mean(row.top1 for row in rows if row.top1 is not None).mean,
        first.num_answers,
        first.num_images,
    )


def _selection_cells(rows: Sequence[TransferRow], has_lr: bool) -> tuple[Cell, ...]:
    """Format chance, and how the configuration was selected. `has_lr`: with a learning rate."""
    first = rows[0]
    chance = 1 / first.num_answers if first.num_answers else None
    lrs = list(dict.fromkeys(row.lr for row in rows if row.lr is not None))
    num_diverged = sum(row.num_diverged for row in rows)
    return (
        Cell(
            percent(chance, 1) if chance else "–",
            sort=chance,
            below=f"{first.num_images:,} images",
        ),
        *([Cell(", ".join(f"{lr:g}" for lr in lrs), sort=lrs[0]) if lrs else NONE] * has_lr),
        Cell(
            f"{first.num_configs:,}",
            sort=float(first.num_configs),
            below=f"on {first.selected_on}" + f", {num_diverged:,} diverged" * bool(num_diverged),
        ),
    )


def comparison_table(rows: Sequence[Comparison]) -> Table:
    """Pairs of settings, tested over pairs of pretrained models or, for methods, over targets."""
    columns: list[ColumnOf[Comparison]] = [
        (Column("change", numeric=False), lambda row: text(_change(row, "instead of"))),
        (
            Column("transferred by", numeric=False),
            lambda row: Cell(row.method or "–", sort=row.method, absent=not row.method),
        ),
        (Column("targets"), lambda row: number(row.num_targets)),
        (Column("seeds"), lambda row: number(row.num_seeds)),
        (
            Column("units", hint="what the test is over: pairs of pretrained models, or targets"),
            lambda row: Cell(
                f"{row.num_units:,} {row.unit}{'s' * (row.num_units > 1)}", sort=row.num_units
            ),
        ),
        (
            Column("difference", hint="percentage points, mean over units"),
            lambda row: _difference_cell(row.difference, row.p_holm, row.half_width_95),
        ),
        (Column("95 % interval", hint="t interval over units"), _t_interval_cell),
        (
            Column("better in", hint="of all runs (target, model, seed)"),
            lambda row: Cell(
                f"{row.wins:,} of {row.num_pairs:,}",
                sort=row.wins / row.num_pairs,
                below=f"{row.ties:,} tie{'s' * (row.ties > 1)}" if row.ties else "",
            ),
        ),
        (
            Column("p, t", hint="paired t-test over units, on logits"),
            lambda row: p_value_cell(row.p),
        ),
        (Column("Holm", hint="p, t for all lines together"), lambda row: p_value_cell(row.p_holm)),
    ]
    return table_of(
        "comparisons",
        "Settings compared over targets",
        rows,
        columns,
        "Percentage points in the targets' own metrics; *: p below 0.05 after Holm. Each "
        "interval is for its line alone. A subset, eps or variant changes the pretrained model, so "
        "pairs of models (one per seed) are the units. Methods are compared over targets. There "
        "is no interval for one unit, or if all units differ equally: their spread is unknown.",
    )


def _change(row: Comparison | ImageTest, preposition: str) -> str:
    prefix = "eps " if row.axis == "eps" else ""
    return f"{prefix}{row.setting or 'plain'} {preposition} {row.baseline or 'plain'}"


def _difference_cell(
    difference: float, p_holm: float | None, half_width: float | None = None
) -> Cell:
    is_significant = p_holm is not None and p_holm < SIGNIFICANCE
    return Cell(points(difference, half_width) + "*" * is_significant, sort=difference)


def _t_interval_cell(row: Comparison) -> Cell:
    half = row.half_width_95
    if half is None:
        return NONE
    return interval_cell(row.difference - half, row.difference + half, half, NONE)


def image_test_table(rows: Sequence[ImageTest]) -> Table:
    """Tests that compare two settings on the images of one target."""
    columns: list[ColumnOf[ImageTest]] = [
        (Column("target", numeric=False), lambda row: text(row.target)),
        (Column("change", numeric=False), lambda row: text(_change(row, "against"))),
        (Column("transferred by", numeric=False), lambda row: optional_text(row.method)),
        (Column("model", numeric=False), lambda row: optional_text(row.model)),
        (Column("images"), lambda row: number(row.num_images)),
        (Column("seeds"), lambda row: number(row.num_seeds)),
        (
            Column("only the first right", hint="images, over all seeds"),
            lambda row: number(row.only_setting),
        ),
        (Column("only the second"), lambda row: number(row.only_baseline)),
        (
            Column("difference", hint="percentage points of the target's own metric"),
            lambda row: _difference_cell(row.difference, row.p_holm),
        ),
        (Column("test", numeric=False), lambda row: text(row.test)),
        (Column("p"), lambda row: p_value_cell(row.p)),
        (Column("Holm", hint="p for all lines together"), lambda row: p_value_cell(row.p_holm)),
    ]
    note = (
        "A change of subset, eps or variant is tested over pairs of pretrained models; one pair "
        "has no p. For methods and single models the test images are the sample: a small p means "
        "that these runs differ, not that runs with other seeds would. *: p below 0.05 after Holm."
    )
    if len(rows) == MAX_TESTS:
        note += f" Only the first {MAX_TESTS:,} tests are shown."
    return table_of("image-tests", "Each target, image by image", rows, columns, note)


def chosen_table(rows: Sequence[TransferRow]) -> Table:
    """How often each value was selected, for methods whose grid has more axes than lr."""
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
    lines = []
    for place, values in counts.items():
        in_order = sorted(values.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{value} ({num_runs:,})" for value, num_runs in in_order)
        lines.append((*map(text, place), Cell(listed, sort=next(iter(values)))))
    return Table("chosen", "Settings that the grids selected", columns, tuple(lines))


def fit_measure_table(rows: Sequence[FitMeasure]) -> Table:
    """How well cheap measures select the setting of a target that was not searched."""
    columns: list[ColumnOf[FitMeasure]] = [
        (Column("method", numeric=False), lambda row: text(row.method)),
        (Column("measure", numeric=False), lambda row: text(row.measure)),
        (Column("targets"), lambda row: number(row.num_targets)),
        (
            Column("best setting found", hint="number of targets"),
            lambda row: Cell(f"{row.times_found:,} of {row.num_targets:,}", sort=row.times_found),
        ),
        (
            Column("loss", hint="points on val below the target's best setting, mean over targets"),
            lambda row: Cell(percent(row.mean_loss, 1), sort=row.mean_loss),
        ),
    ]
    return table_of(
        "fit-measures",
        "Which measure would have found the best setting",
        rows,
        columns,
        "Each target in turn gets the best setting of the target with the nearest value of the "
        "measure. One setting for all: the best one on average over the other targets.",
    )
