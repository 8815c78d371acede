"""Build the sections of a report: accuracy, transfer, models, sizes, grids, classes and timing."""

from collections.abc import Collection, Sequence

from harness.config.recipe import Recipe
from harness.report.data.collection import PlannedModel
from harness.report.data.grid_rows import GridRows
from harness.report.data.induction import Induction
from harness.report.data.records import (
    AccuracyRow,
    ClassRow,
    CoarseRow,
    ScoreRow,
    SourceAccuracyRow,
    TransferRow,
    at_full_size,
    format_eps,
)
from harness.report.data.selections import ClassScoreRow, SelectionRow
from harness.report.render.figures import classes as class_figures
from harness.report.render.figures import grids as grid_figures
from harness.report.render.figures import models as model_figures
from harness.report.render.figures import plot
from harness.report.render.figures import sizes as size_figures
from harness.report.render.figures import transfer as transfer_figures
from harness.report.render.figures.plot import Panel
from harness.report.render.section import (
    MAX_LOOKUP_ROWS,
    Fold,
    LegendEntry,
    Section,
    folds,
    if_long,
    if_short,
    table_section,
)
from harness.report.render.tables import accuracy as accuracy_tables
from harness.report.render.tables import models as model_tables
from harness.report.render.tables import scores as score_tables
from harness.report.render.tables import selections as selection_tables
from harness.report.render.tables import transfer as transfer_tables
from harness.report.render.tables.scratch import scratch_table
from harness.report.stats.analysis import Analysis
from harness.report.stats.budgets import BudgetScore
from harness.report.stats.fit_measures import FitMeasure
from harness.report.text import findings, measured_accuracy
from harness.report.text.methods import about_methods

_MAX_OPEN_GRIDS = 6


def accuracy_section(
    recipe: Recipe,
    rows: Sequence[AccuracyRow],
    coarse: Sequence[CoarseRow],
    planned: Collection[PlannedModel],
) -> Section:
    """Build the section on the accuracy of the pretrained models on source classes."""
    tables = accuracy_tables.accuracy_tables(recipe, rows, planned)
    own = tuple(table for table in tables if table.name.endswith("-own"))
    common = [table for table in tables if table not in own]
    return Section(
        "accuracy",
        "Accuracy on the source classes",
        tables=(*common, *accuracy_tables.coarse_tables(recipe, coarse)),
        folds=(Fold("Each model on all of its own classes", own),) if own else (),
        nothing="No model has been evaluated yet." if recipe.subsets else "",
    )


def transfer_section(recipe: Recipe, rows: Sequence[TransferRow], analysis: Analysis) -> Section:
    """Test scores on the targets, and comparisons of methods and other settings over targets."""
    trained = [row for row in at_full_size(rows) if row.subset]
    has_several = len({(row.subset, row.eps) for row in trained}) > 1
    has_one_eps = len({row.eps for row in trained}.union(recipe.eps)) == 1
    panels: list[Panel] = []
    legend: tuple[LegendEntry, ...] = ()
    notes = []
    if has_several and has_one_eps:
        panels = transfer_figures.subset_panels(recipe, trained)
        legend = _subset_legend(recipe, trained)
    elif has_several:
        panels = transfer_figures.transfer_panels(recipe, trained)
        subsets, methods = {row.subset for row in trained}, {row.method for row in trained}
        legend = _transfer_legend(recipe, subsets, methods)
        notes.append("Points of one eps are side by side, so that they do not overlap.")
    if panels and len(recipe.seeds) > 1:
        notes.append("Points are means over seeds, bars one standard deviation.")
    names = [subset.name for subset in recipe.subsets]
    labels = transfer_figures.subset_labels(recipe)
    if panels and has_one_eps and labels != names:
        numbered = (f"{label}: {name}" for label, name in zip(labels, names, strict=True))
        notes.append(", ".join(numbered) + ".")
    table = transfer_tables.transfer_table(recipe, rows)
    # A single pair of runs has neither intervals nor tests: the sentence has its difference.
    is_tested = any(row.num_pairs > 1 for row in analysis.comparisons)
    compared = analysis.comparisons if is_tested else []
    sentence = about_methods(analysis.comparisons, rows, analysis.signs)
    return Section(
        "transfer",
        "Transfer",
        (sentence,) if sentence else (),
        legend=legend if panels else (),
        panels=tuple(panels),
        panel_note=" ".join(notes),
        tables=if_short(table),
        folds=folds(
            transfer_tables.comparison_table(compared),
            transfer_tables.image_test_table(analysis.image_tests),
            transfer_tables.chosen_table(rows),
            *if_long(table),
        ),
        nothing="No model has been transferred yet." if recipe.targets and recipe.methods else "",
    )


def scores_section(
    recipe: Recipe, rows: Sequence[ScoreRow], inductions: Sequence[Induction]
) -> Section:
    """Scores of frozen models, computed without training on the targets."""
    if not rows:
        return Section("scores", "Scores")
    table = score_tables.score_table(recipe, rows)
    sentence = findings.about_induction(inductions)
    lines = dict.fromkeys(line for induction in inductions for line in induction.lines)
    legend = [
        _marker(
            ", ".join([variant or "plain", *[f"eps {format_eps(eps)}"] * (len(recipe.eps) > 1)]),
            index,
        )
        for index, (variant, eps) in enumerate(lines)
    ]
    return Section(
        "scores",
        "Scores",
        (sentence,) if sentence else (),
        tuple(legend) if len(legend) > 1 else (),
        tuple(size_figures.induction_panels(inductions)),
        tables=if_short(table, MAX_LOOKUP_ROWS),
        folds=folds(*if_long(table, MAX_LOOKUP_ROWS)),
    )


def scratch_section(analysis: Analysis) -> Section:
    """Transfer compared with training from scratch."""
    return table_section(
        "scratch",
        "Against training from scratch",
        scratch_table(analysis.against_scratch),
        findings.about_scratch(analysis.against_scratch),
    )


def models_section(
    recipe: Recipe, analysis: Analysis, measured: Sequence[SourceAccuracyRow]
) -> Section:
    """Many models: their ranking, its correlation with source accuracy, and its predictors."""
    sentences = [
        findings.about_predictors(analysis, recipe.shortlist),
        findings.about_strengths(analysis),
        findings.about_source_accuracy(analysis.associations),
        measured_accuracy.about_differences(measured),
    ]
    scatter = [
        model_figures.scatter_panel(analysis.compared[row.method], row, number)
        for number, row in enumerate(analysis.associations)
    ]
    elo = [
        model_figures.elo_panel(ranking, number)
        for number, ranking in enumerate(analysis.rankings.values())
    ]
    methods = dict.fromkeys(fit.method for fit in analysis.predictor_fits)
    predicted = [
        model_figures.predictor_panel(
            [fit for fit in analysis.predictor_fits if fit.method == method], number
        )
        for number, method in enumerate(methods)
    ]
    ranking = model_tables.ranking_table(
        [row for ranked in analysis.rankings.values() for row in ranked],
        {row.model for row in measured if row.measured is not None},
    )
    medians = model_tables.median_table(analysis.medians)
    return Section(
        "models",
        "Models compared",
        tuple(sentence for sentence in sentences if sentence),
        panels=(*scatter, *predicted, *elo),
        tables=(
            score_tables.predictor_table(analysis.predictor_fits, recipe.shortlist),
            *if_short(medians),
            *if_short(ranking),
        ),
        folds=folds(
            *if_long(medians),
            model_tables.association_table(analysis.associations),
            model_tables.source_accuracy_table(measured),
            *if_long(ranking),
        ),
    )


def architectures_section(analysis: Analysis) -> Section:
    """Build the section on wins of methods over each other, counted once per architecture."""
    return table_section(
        "architectures", "Methods over architectures", model_tables.sign_table(analysis.signs)
    )


def top_section(analysis: Analysis) -> Section:
    """Build the section on the targets on which each model is among the best by kNN."""
    return table_section(
        "top", "Most often among the best", score_tables.top_table(analysis.top_counts)
    )


def convergence_section(analysis: Analysis) -> Section:
    """Steps that each method needs to reach most of the odds p / (1 - p) of its final score."""
    return table_section(
        "convergence",
        "Steps of training",
        model_tables.convergence_table(analysis.convergences),
        findings.about_convergence(analysis.speedups),
    )


def training_section(analysis: Analysis) -> Section:
    """The recipe's `models` (loaded, not trained by it), by the kind of their training."""
    return table_section(
        "training",
        "Kinds of training",
        model_tables.training_table(analysis.training_groups),
        findings.about_training(analysis.training_groups),
    )


def budgets_section(rows: Sequence[BudgetScore]) -> Section:
    """More classes against more images per class, at equal numbers of images."""
    return table_section("budgets", "Equal numbers of images", model_tables.budget_table(rows))


def source_sizes_section(rows: Sequence[TransferRow]) -> Section:
    """Curves over images and classes of the source."""
    full = [row for row in at_full_size(rows) if not row.is_scratch]
    panels = size_figures.source_panels(full)
    methods = size_figures.source_methods(full)
    legend = tuple(_marker(method, index) for index, method in enumerate(methods))
    return Section(
        "source-sizes",
        "Amount of pretraining data",
        legend=legend if panels else (),
        panels=tuple(panels),
    )


def target_sizes_section(rows: Sequence[TransferRow]) -> Section:
    """Curves over images and steps of the target."""
    panels = [
        *size_figures.curve_panels(rows, "per_class"),
        *size_figures.curve_panels(rows, "steps"),
    ]
    labels = size_figures.curve_series(size_figures.rows_of_curves(rows)).values()
    legend = tuple(_marker(label, index) for index, label in enumerate(labels))
    return Section(
        "sizes",
        "Amount of target data",
        legend=legend if panels else (),
        panels=tuple(panels),
    )


def grid_section(rows: GridRows, fits: Sequence[FitMeasure]) -> Section:
    """Heat maps of the hyperparameter grids, and which measure finds their best settings."""
    panels = grid_figures.heat_panels(rows)
    note = (
        "Scores on val, which selected the configuration; best over the other axes, averaged over "
        "models and seeds."
    )
    if len(panels) == grid_figures.MAX_HEAT_MAPS:
        note += f" The first {len(panels):,} grids; transfer_grid.csv has all."
    shown, folded = panels[:_MAX_OPEN_GRIDS], panels[_MAX_OPEN_GRIDS:]
    return Section(
        "grids",
        "Hyperparameter grids",
        panels=tuple(shown),
        panel_note=note if panels else "",
        tables=(transfer_tables.fit_measure_table(fits),) if fits else (),
        folds=(Fold(f"{len(folded):,} more grids", panels=tuple(folded)),) if folded else (),
    )


def classes_section(recipe: Recipe, rows: Sequence[ClassRow], written: Sequence[str]) -> Section:
    """Build the section on classes that subsets leave out. `written`: subsets written so far."""
    subsets = [subset.name for subset in recipe.subsets]
    removed = [row for row in rows if row.removed_by]
    if not subsets or (len(subsets) == 1 and written and not removed):
        return Section("left-out", "Classes left out")
    panel = class_figures.class_panel(rows, subsets)
    removing = {row.removed_by[0] for row in removed}
    legend = (
        LegendEntry("in every subset", "●", "quiet"),
        *(
            _marker(f"left out of {name}", index)
            for index, name in enumerate(subsets)
            if name in removing
        ),
    )
    sentence = (
        f"{f'{len(removed):,}' if removed else 'None'} of the {len(rows):,} known source classes "
        f"{'is' if len(removed) == 1 else 'are'} left out by at least one subset."
    )
    if unwritten := [name for name in subsets if name not in written]:
        sentence += f" Not written yet: {', '.join(unwritten)}."
    return Section(
        "left-out",
        "Classes left out",
        (sentence,) if written else (),
        legend if panel else (),
        (panel,) if panel else (),
        tables=(accuracy_tables.class_table(rows, subsets),) if written else (),
        nothing="" if written else "No subset has been written yet.",
    )


def selections_section(
    rows: Sequence[SelectionRow], class_scores: Sequence[ClassScoreRow]
) -> Section:
    """Build the section on subsets selected by scores, with the highest and lowest class scores."""
    if not rows:
        return Section("selections", "Selections")
    scored = selection_tables.class_score_table(class_scores)
    return Section(
        "selections",
        "Selections",
        tables=(selection_tables.selection_table(rows),),
        folds=(Fold("Scores of classes", (scored,)),) if class_scores else (),
    )


def _marker(text: str, index: int) -> LegendEntry:
    """Return the legend entry of series `index`."""
    sign = plot.MARKER_SIGNS[plot.marker_place(index)]
    return LegendEntry(text, sign, f"series-{index % plot.NUM_COLORS + 1}")


def _transfer_legend(
    recipe: Recipe, subsets: Collection[str], methods: Collection[str]
) -> tuple[LegendEntry, ...]:
    """Return the legend entries of the subsets and methods that have a point."""
    names = [(index, subset.name) for index, subset in enumerate(recipe.subsets)]
    return (
        *(_marker(name, index) for index, name in names if name in subsets),
        *(
            LegendEntry(method, dash=plot.DASH_ARRAYS[transfer_figures.line_style(recipe, method)])
            for method in recipe.methods
            if method in methods
        ),
    )


def _subset_legend(recipe: Recipe, rows: Sequence[TransferRow]) -> tuple[LegendEntry, ...]:
    return tuple(
        _marker(f"{method}, {variant}" if len(recipe.variants) > 1 else method, index)
        for index, (method, variant) in enumerate(transfer_figures.subset_series(recipe, rows))
    )
