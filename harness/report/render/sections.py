"""The sections of a report: the source models, transfer, many models, amounts and grids, what was left out, how it ran."""

from collections.abc import Collection, Sequence

from harness.config.recipe import Recipe
from harness.report.data.coarse import CoarseRow, coarse_tables
from harness.report.data.collection import Planned
from harness.report.data.induction import Induction, about_induction
from harness.report.data.rows import (
    AccuracyRow,
    ClassRow,
    GridRow,
    ScoreRow,
    TransferRow,
    at_full_size,
    shown_eps,
)
from harness.report.data.run_rows import TimingRow
from harness.report.render.figures import amounts as curve_figures
from harness.report.render.figures import models as model_figures
from harness.report.render.figures import transfer as figures
from harness.report.render.figures.plot import DASH_ARRAYS, MARKER_SIGNS, NUM_COLOURS, Panel
from harness.report.render.section import Fold, LegendEntry, Section
from harness.report.render.tables import accuracy as tables
from harness.report.render.tables import models as study_tables
from harness.report.render.tables import runs as run_tables
from harness.report.render.tables.table import Table
from harness.report.stats.analysis import Analysis
from harness.report.text import findings

SPAN_LABELS = {
    "data_wait": "waiting for data",
    "copy": "copy to the device",
    "attack": "attack",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
}
_LONG_TABLE = 40  # rows; a longer one opens on demand
_SHORT_TABLE = 12  # likewise, of one that is looked up rather than read


def accuracy_section(
    recipe: Recipe,
    rows: Sequence[AccuracyRow],
    coarse: Sequence[CoarseRow],
    planned: Collection[Planned],
) -> Section:
    found = tables.accuracy_tables(recipe, rows, planned)
    own = tuple(table for table in found if table.name.endswith("-own"))
    shown = [table for table in found if table not in own]
    return Section(
        "accuracy",
        "Accuracy on the source classes",
        tables=(*shown, *coarse_tables(recipe, coarse)),
        folds=(Fold("Each model on all of its own classes", own),) if own else (),
        nothing="No model has been evaluated yet." if recipe.source is not None else "",
    )


def transfer_section(recipe: Recipe, rows: Sequence[TransferRow], found: Analysis) -> Section:
    trained = [row for row in at_full_size(rows) if row.subset]
    several = len({(row.subset, row.eps) for row in trained}) > 1
    one_eps = len({row.eps for row in trained}.union(recipe.eps)) == 1
    panels = (
        (figures.subset_panels if one_eps else figures.transfer_panels)(recipe, trained)
        if several
        else []
    )
    every = tables.transfer_table(recipe, rows)
    compared, on_images = (
        study_tables.comparison_table(found.comparisons),
        study_tables.image_test_table(found.image_tests),
    )
    sentence = findings.about_methods(found.comparisons, rows)
    folds = _folded(
        compared,
        on_images,
        study_tables.chosen_table(rows),
        *[every] * (len(every.rows) > _LONG_TABLE),
    )
    legend = _subset_legend(recipe, trained) if one_eps else _transfer_legend(recipe)
    note = (
        ["Points are means over seeds, bars one standard deviation."]
        if len(recipe.seeds) > 1
        else []
    )
    if one_eps and (labels := figures.subset_labels(recipe)) != (
        subsets := [subset.name for subset in recipe.subsets]
    ):
        note.append(
            ", ".join(f"{label}: {name}" for label, name in zip(labels, subsets, strict=True)) + "."
        )
    return Section(
        "transfer",
        "Transfer",
        (sentence,) if sentence else (),
        legend=legend if panels else (),
        panels=tuple(panels),
        panel_note=" ".join(note) if panels else "",
        tables=(every,) if len(every.rows) <= _LONG_TABLE else (),
        folds=folds,
        nothing="No model has been transferred yet." if recipe.targets else "",
    )


def scores_section(recipe: Recipe, rows: Sequence[ScoreRow], found: Sequence[Induction]) -> Section:
    """What frozen models score before anything is trained on the targets."""
    if not rows:
        return Section("scores", "Scores")
    table = study_tables.score_table(recipe, rows)
    few = len(table.rows) <= _SHORT_TABLE
    sentence, lines = (
        about_induction(found),
        dict.fromkeys(line for one in found for line in one.lines),
    )
    legend = [
        LegendEntry(
            ", ".join([variant or "plain", *[f"eps {shown_eps(eps)}"] * (len(recipe.eps) > 1)]),
            MARKER_SIGNS[index % len(MARKER_SIGNS)],
            f"series-{index % NUM_COLOURS + 1}",
        )
        for index, (variant, eps) in enumerate(lines)
    ]
    return Section(
        "scores",
        "Scores",
        (sentence,) if sentence else (),
        tuple(legend) if len(legend) > 1 else (),
        tuple(curve_figures.induction_panels(found)),
        tables=(table,) if few else (),
        folds=() if few else _folded(table),
    )


def scratch_section(found: Analysis) -> Section:
    table = study_tables.scratch_table(found.against_scratch)
    sentence = findings.about_scratch(found.against_scratch)
    few = len(table.rows) <= _LONG_TABLE
    return Section(
        "scratch",
        "Against training from scratch",
        (sentence,) if sentence else (),
        tables=(table,) if few else (),
        folds=() if few else _folded(table),
    )


def models_section(recipe: Recipe, found: Analysis) -> Section:
    """Many models: who leads, what goes with it, what tells it beforehand."""
    sentences = [
        findings.about_predictors(found, recipe.shortlist),
        findings.about_strengths(found),
        findings.about_source_accuracy(found.associations),
    ]
    panels: list[Panel] = [
        model_figures.scatter_panel(found.boards[one.method], one, number)
        for number, one in enumerate(found.associations)
    ]
    elo = [
        model_figures.elo_panel(one, number) for number, one in enumerate(found.standings.values())
    ]
    methods = dict.fromkeys(power.method for power in found.powers)
    predicted = [
        model_figures.predictor_panel(
            [power for power in found.powers if power.method == method], number
        )
        for number, method in enumerate(methods)
    ]
    ranking = study_tables.standing_table(
        [one for standings in found.standings.values() for one in standings]
    )
    return Section(
        "models",
        "Models compared",
        tuple(sentence for sentence in sentences if sentence),
        panels=(*panels, *predicted, *elo),
        tables=(
            study_tables.power_table(found.powers, recipe.shortlist),
            *[ranking] * (len(ranking.rows) <= _LONG_TABLE),
        ),
        folds=_folded(
            study_tables.association_table(found.associations),
            *[ranking] * (len(ranking.rows) > _LONG_TABLE),
        ),
    )


def sizes_section(rows: Sequence[TransferRow]) -> Section:
    """Curves over images and steps of the target, and over images and classes of the source."""
    methods = list(dict.fromkeys(row.method for row in rows))
    legend = tuple(
        LegendEntry(
            method, MARKER_SIGNS[index % len(MARKER_SIGNS)], f"series-{index % NUM_COLOURS + 1}"
        )
        for index, method in enumerate(methods)
    )
    panels = [
        *curve_figures.source_panels(
            [row for row in at_full_size(rows) if row.kind != findings.SCRATCH]
        ),
        *curve_figures.curve_panels(rows, "per_class"),
        *curve_figures.curve_panels(rows, "steps"),
    ]
    return Section(
        "sizes",
        "How much there is to learn from",
        legend=legend if panels else (),
        panels=tuple(panels),
    )


def grid_section(rows: Sequence[GridRow]) -> Section:
    panels = curve_figures.heat_panels(rows)
    note = "Scores on val, which chose; best over the other axes, averaged over models and seeds."
    if len(panels) == curve_figures.MOST_HEAT_MAPS:
        note += f" The first {len(panels)} grids; transfer_grid.csv has all."
    return Section(
        "grids",
        "What the grids tried",
        panels=tuple(panels[:6]),
        panel_note=note if panels else "",
        folds=(Fold(f"{len(panels) - 6} more grids", panels=tuple(panels[6:])),)
        if len(panels) > 6
        else (),
    )


def classes_section(recipe: Recipe, rows: Sequence[ClassRow], written: Sequence[str]) -> Section:
    if recipe.source is None:
        return Section("left-out", "Classes left out")
    subsets = [subset.name for subset in recipe.subsets]
    panel = figures.class_panel(rows, subsets)
    removed = [row for row in rows if row.removed_by]
    leaving = {row.removed_by[0] for row in removed}
    legend = (
        LegendEntry("in every subset", "●", "quiet"),
        *(
            LegendEntry(
                f"left out of {name}",
                MARKER_SIGNS[index % len(MARKER_SIGNS)],
                f"series-{index % NUM_COLOURS + 1}",
            )
            for index, name in enumerate(subsets)
            if name in leaving
        ),
    )
    unwritten = [name for name in subsets if name not in written]
    said = (
        f"{len(removed) or 'None'} of the {len(rows)} known source classes {'is' if len(removed) == 1 else 'are'} left out "
        "by at least one subset."
    ) + (f" Not written yet: {', '.join(unwritten)}." if unwritten else "")
    return Section(
        "left-out",
        "Classes left out",
        (said,) if written else (),
        legend if panel else (),
        (panel,) if panel else (),
        tables=(tables.class_table(rows, subsets),) if written else (),
        nothing="" if written else "No subset has been written yet.",
    )


def timing_section(rows: Sequence[TimingRow]) -> Section:
    found = run_tables.timing_tables(rows)
    legend = tuple(LegendEntry(label, swatch=span) for span, label in SPAN_LABELS.items())
    note = (
        "Replayed: images/s when one batch, already on the device, is trained on again and again: the most that any loader "
        "could reach. Fed: end to end as a share of that. Waits: the share of a step spent waiting for data."
    )
    return Section(
        "timing",
        "Timing",
        legend=legend if found else (),
        tables=tuple(one for one in found if len(one.rows) <= _SHORT_TABLE),
        folds=_folded(*(one for one in found if len(one.rows) > _SHORT_TABLE)),
        note=note if found else "",
        nothing="No training run has finished yet.",
    )


def _folded(*found: Table) -> tuple[Fold, ...]:
    return tuple(
        Fold(f"{table.title} ({len(table.rows):,})", (table,)) for table in found if table.rows
    )


def _transfer_legend(recipe: Recipe) -> tuple[LegendEntry, ...]:
    series = [
        LegendEntry(
            subset.name,
            MARKER_SIGNS[index % len(MARKER_SIGNS)],
            f"series-{index % NUM_COLOURS + 1}",
        )
        for index, subset in enumerate(recipe.subsets)
    ]
    return *series, *(
        LegendEntry(method, dash=DASH_ARRAYS[figures.line_style(recipe, method)])
        for method in recipe.methods
    )


def _subset_legend(recipe: Recipe, rows: Sequence[TransferRow]) -> tuple[LegendEntry, ...]:
    return tuple(
        LegendEntry(
            f"{method}, {variant}" if len(recipe.variants) > 1 else method,
            MARKER_SIGNS[index % len(MARKER_SIGNS)],
            f"series-{index % NUM_COLOURS + 1}",
        )
        for index, (method, variant) in enumerate(figures.subset_series(recipe, rows))
    )
