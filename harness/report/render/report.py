"""Collect everything that a report contains, before it is formatted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.recipe import Recipe
from harness.report.data import rows, run_rows, selections
from harness.report.data.collection import Collection
from harness.report.data.grid_rows import GridRows
from harness.report.data.induction import Induction, inductions
from harness.report.data.records import (
    AccuracyRow,
    ClassRow,
    CoarseRow,
    ScoreRow,
    SourceAccuracyRow,
    TransferRow,
)
from harness.report.data.repeats import describe
from harness.report.render import sections
from harness.report.render.figures.means import mean_panel
from harness.report.render.figures.plot import Panel
from harness.report.render.section import Section
from harness.report.render.timing import timing_section
from harness.report.stats.analysis import Analysis, analyze
from harness.report.stats.budgets import budget_scores
from harness.report.stats.fit_measures import FitMeasure, fit_measures
from harness.report.text import answer, caveats, findings, measured_accuracy, methods, single
from harness.runner.result import Result

MAX_OPENING = 3  # largest number of paragraphs at the top; the others are further down


@dataclass(frozen=True)
class Report:
    """Content of a report.

    Attributes:
        betons: the `.beton` files that the stages read or wrote.
        coarse: results of subsets with coarser labels.
        left_out: stages whose result cannot be used, with the reason.
        num_skipped: number of stages that the recipe's shortlist skipped.
        headline: the answer in one sentence.
        robustness: the paragraph that compares the largest eps with the smallest; "" if there is
            none.
        sentences: the opening paragraphs.
        lead: the figure at the top of the page; None if there is nothing to compare.
        more: further findings that belong to no section.
        warnings: defects of the data that limit what the results mean.
        caveats: limits of the measurement, such as a single seed.
    """

    recipe: Recipe
    unfinished: list[run_rows.UnfinishedRow]
    left_out: list[run_rows.UnfinishedRow]
    num_skipped: int
    accuracy: list[AccuracyRow]
    transfer: list[TransferRow]
    grid: GridRows
    scores: list[ScoreRow]
    coarse: list[CoarseRow]
    source_accuracy: list[SourceAccuracyRow]
    classes: list[ClassRow]
    timing: list[run_rows.TimingRow]
    betons: list[run_rows.BetonRow]
    stages: list[run_rows.StageRow]
    environment: list[run_rows.EnvironmentRow]
    analysis: Analysis
    fit_measures: list[FitMeasure]
    headline: str
    robustness: str
    sentences: list[str]
    lead: Panel | None
    more: list[str]
    warnings: list[str]
    caveats: list[str]
    sections: list[Section]


def collect(
    recipe: Recipe,
    results: Sequence[Result],
    unfinished: Sequence[str],
    failed: Mapping[str, str],
    predictions: Mapping[str, Path],
    skipped: Sequence[str] = (),
    left_out: Mapping[str, str] | None = None,
) -> Report:
    """Compute rows, statistics, sentences and sections.

    Args:
        recipe: the recipe that the results belong to.
        results: finished stages; duplicates count once.
        unfinished: names of stages without a result.
        failed: name -> reason, for unfinished stages that failed.
        predictions: key of a stage -> its file of predictions. Statistical tests over images read
            the files of transfers.
        skipped: names of stages that the shortlist skipped.
        left_out: name -> reason, for stages whose result cannot be used.
    """
    collection = Collection(recipe, results)
    accuracy, transfer = rows.accuracy_rows(collection), rows.transfer_rows(collection)
    scores, coarse = rows.score_rows(collection), rows.coarse_rows(collection)
    grid, classes = GridRows(collection), rows.class_rows(collection)
    betons = run_rows.beton_rows(collection)
    timing, measured = run_rows.timing_rows(collection), collection.source_accuracies()
    fits = fit_measures(grid.groups(min_axes=2), transfer, scores)
    analysis = analyze(accuracy, transfer, scores, predictions)
    induced = inductions(recipe, scores)
    sentences = _sentences(recipe, accuracy, transfer, analysis, induced) or [
        text
        for text in (
            findings.about_best_model(analysis.matrices),
            single.about_only_transfer(transfer),
            single.about_only_model(accuracy),
            measured_accuracy.about_most_accurate(measured),
        )
        if text
    ]
    sentences = sentences or [
        single.about_scores(scores)
        or single.why_none(
            any_measured=bool(accuracy or transfer or scores), is_complete=not unfinished
        )
    ]
    built = [
        sections.accuracy_section(recipe, accuracy, coarse, collection.planned),
        sections.transfer_section(recipe, transfer, analysis),
        sections.scores_section(recipe, scores, induced),
        sections.models_section(recipe, analysis, measured),
        sections.architectures_section(analysis),
        sections.top_section(analysis),
        sections.training_section(analysis),
        sections.budgets_section(budget_scores(recipe, transfer)),
        sections.source_sizes_section(transfer),
        sections.target_sizes_section(transfer),
        sections.convergence_section(analysis),
        sections.scratch_section(analysis),
        sections.grid_section(grid, fits),
        sections.classes_section(recipe, classes, list(collection.kept_classes)),
        sections.selections_section(
            selections.selection_rows(collection), list(selections.class_score_rows(collection))
        ),
        timing_section(timing),
    ]
    opening = sentences[:MAX_OPENING]
    in_sections = {sentence for section in built for sentence in section.sentences}
    return Report(
        recipe=recipe,
        unfinished=[
            run_rows.UnfinishedRow(name, failed.get(name, "")) for name in sorted(unfinished)
        ],
        left_out=[
            run_rows.UnfinishedRow(name, reason)
            for name, reason in sorted((left_out or {}).items())
        ],
        num_skipped=len(skipped),
        accuracy=accuracy,
        transfer=transfer,
        grid=grid,
        scores=scores,
        coarse=coarse,
        source_accuracy=measured,
        classes=classes,
        timing=timing,
        betons=betons,
        stages=run_rows.stage_rows(collection),
        environment=run_rows.environment_rows(collection),
        analysis=analysis,
        fit_measures=fits,
        headline=answer.headline(accuracy, transfer, analysis.effects) or _first(opening[0]),
        robustness=answer.about_robustness(accuracy, transfer, analysis.effects),
        sentences=opening,
        lead=mean_panel(analysis.matrices),
        more=[sentence for sentence in sentences if sentence not in {*opening, *in_sections}],
        warnings=caveats.about_empty_classes([*betons, *run_rows.beton_rows(collection, "view")]),
        caveats=[
            *caveats.caveats(accuracy, transfer),
            *caveats.about_repeats(
                describe(collection.repeated_betons), describe(collection.repeated_models)
            ),
            *caveats.about_absent(recipe),
        ],
        sections=[section.without_sentences(opening) for section in built],
    )


def _first(paragraph: str) -> str:
    """Return the first sentence of a paragraph."""
    return f"{paragraph.split('. ')[0].rstrip('.')}."


def _sentences(
    recipe: Recipe,
    accuracy: Sequence[AccuracyRow],
    transfer: Sequence[TransferRow],
    analysis: Analysis,
    induced: Sequence[Induction],
) -> list[str]:
    """Return all findings as paragraphs, beginning with the answer to the recipe's main question.

    If a recipe loads existing models, and has no scores and at most one subset, the main question
    is how transfer depends on source accuracy. Variants of pretraining then serve as controls.
    """
    answers = answer.answers(accuracy, transfer, analysis.effects)
    correlation = findings.about_source_accuracy(analysis.associations)
    compares_models = bool(recipe.models) and not recipe.scores and len(recipe.subsets) < 2
    paragraphs = [
        *([correlation, *answers] if compares_models else answers),
        findings.about_induction(induced),
        findings.about_predictors(analysis, recipe.shortlist),
        "" if compares_models else correlation,
        methods.about_methods(analysis.comparisons, transfer, analysis.signs),
        findings.about_scratch(analysis.against_scratch),
        findings.about_convergence(analysis.speedups),
        findings.about_strengths(analysis),
    ]
    return [paragraph for paragraph in paragraphs if paragraph]
