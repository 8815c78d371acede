"""Results to a report: one self-contained HTML page, or Markdown, with every number beside it as CSV.

The same results give the same bytes. What has not run yet is said, and stops nothing.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from ruamel.yaml import YAML

from harness.config.recipe import Recipe, ShortlistSettings
from harness.report.data import induction, rows, run_rows
from harness.report.data.coarse import CoarseRow, coarse_rows
from harness.report.data.collection import Collection
from harness.report.render import sections
from harness.report.render.figures import plot
from harness.report.render.section import Section
from harness.report.render.tables import runs as run_tables
from harness.report.render.tables.table import escape_markdown, to_csv, to_markdown
from harness.report.stats import leaderboard as board
from harness.report.stats import predictors
from harness.report.stats.analysis import Analysis, analyse
from harness.report.stats.comparisons import AgainstScratch, Comparison
from harness.report.stats.effects import DifferenceRow
from harness.report.stats.image_tests import ImageTest
from harness.report.text import answer, findings
from harness.runner.result import Result
from harness.system.atomic_write import write_atomically
from writers.errors import UserError

FORMATS = ("html", "md", "csv")
MOST_ROWS = 1000  # of a table in the page: more slow a browser down, and nobody reads them there
MOST_OPENING = 3  # sentences that the report opens with; the others stand in their sections


@dataclass(frozen=True)
class Report:
    """Everything a report says, before it takes a form."""

    recipe: Recipe
    unfinished: list[run_rows.UnfinishedRow]
    num_left_out: int  # stages of models that are not on the recipe's shortlist
    accuracy: list[rows.AccuracyRow]
    transfer: list[rows.TransferRow]
    grid: list[rows.GridRow]
    scores: list[rows.ScoreRow]
    coarse: list[CoarseRow]
    classes: list[rows.ClassRow]
    timing: list[run_rows.TimingRow]
    betons: list[run_rows.BetonRow]
    stages: list[run_rows.StageRow]
    environment: list[run_rows.EnvironmentRow]
    analysis: Analysis
    sentences: list[str]  # the answer
    more: list[str]  # what else was found and has no section
    caveats: list[str]
    sections: list[Section]


def write(
    recipe: Recipe,
    results: Sequence[Result],
    unfinished: Sequence[str],
    out: Path,
    formats: Sequence[str] = ("html", "csv"),
    *,
    failed: Mapping[str, str] | None = None,
    predictions: Mapping[str, Path] | None = None,
    left_out: Sequence[str] = (),
) -> Path:
    """Write the report into the folder `out` and return the file to open first.

    `html` makes index.html, `md` report.md, `csv` one file for each kind of row, and `figures/` with each plot as SVG and CSV.
    `unfinished` names the stages that have no result, `failed` says of some of them why; `predictions`: key of a transfer ->
    the file of its answers, for tests on images; `left_out`: stages that a shortlist spares. Raises UserError for an unknown
    format and an unwritable `out`.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UserError(
            f"A report has no format '{', '.join(unknown)}'.", f"Known: {', '.join(FORMATS)}."
        )
    report = collect(recipe, results, unfinished, failed or {}, predictions or {}, left_out)
    files: dict[str, str] = {}
    if "html" in formats:
        files["index.html"] = to_html(report)
    if "md" in formats:
        files["report.md"] = to_report_markdown(report)
    if "csv" in formats:
        files |= to_csv_files(report)
    try:
        for name, text in files.items():
            write_atomically(out / name, text.encode())
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {out}: {error.strerror}.",
            "Choose another folder: --out DIR",
        ) from error
    return out / next(iter(files))


def collect(
    recipe: Recipe,
    results: Sequence[Result],
    unfinished: Sequence[str],
    failed: Mapping[str, str],
    predictions: Mapping[str, Path],
    left_out: Sequence[str] = (),
) -> Report:
    """Rows, statistics, sentences and sections of a report. A result that is given twice counts once."""
    found = Collection(recipe, results)
    accuracy, transfer, scores = (
        rows.accuracy_rows(found),
        rows.transfer_rows(found),
        rows.score_rows(found),
    )
    grid, classes, timing = (
        rows.grid_rows(found),
        rows.class_rows(found),
        run_rows.timing_rows(found),
    )
    coarse, analysis = coarse_rows(found), analyse(accuracy, transfer, scores, predictions)
    induced = induction.inductions(recipe, scores)
    said = _sentences(accuracy, transfer, analysis, induced, recipe.shortlist) or [
        answer.why_none(any_measured=bool(accuracy or transfer or scores))
    ]
    built = [
        sections.accuracy_section(recipe, accuracy, coarse, found.planned),
        sections.transfer_section(recipe, transfer, analysis),
        sections.scores_section(recipe, scores, induced),
        sections.models_section(recipe, analysis),
        sections.sizes_section(transfer),
        sections.scratch_section(analysis),
        sections.grid_section(grid),
        sections.classes_section(recipe, classes, list(found.kept_classes)),
        sections.timing_section(timing),
    ]
    opening = said[:MOST_OPENING]
    at_home = {sentence for section in built for sentence in section.sentences}
    return Report(
        recipe=recipe,
        unfinished=[
            run_rows.UnfinishedRow(name, failed.get(name, "")) for name in sorted(unfinished)
        ],
        num_left_out=len(left_out),
        accuracy=accuracy,
        transfer=transfer,
        grid=grid,
        scores=scores,
        coarse=coarse,
        classes=classes,
        timing=timing,
        betons=run_rows.beton_rows(found),
        stages=run_rows.stage_rows(found),
        environment=run_rows.environment_rows(found),
        analysis=analysis,
        sentences=opening,
        more=[sentence for sentence in said if sentence not in {*opening, *at_home}],
        caveats=answer.caveats(accuracy, transfer),
        sections=[section.without_sentences(opening) for section in built],
    )


def _sentences(
    accuracy: Sequence[rows.AccuracyRow],
    transfer: Sequence[rows.TransferRow],
    found: Analysis,
    induced: Sequence[induction.Induction],
    shortlist: ShortlistSettings | None,
) -> list[str]:
    """Everything that can be said in words, what was asked for first."""
    said = [
        *answer.answers(accuracy, transfer, found.effects),
        induction.about_induction(induced),
        findings.about_predictors(found, shortlist),
        findings.about_source_accuracy(found.associations),
        findings.about_methods(found.comparisons, transfer),
        findings.about_scratch(found.against_scratch),
        findings.about_strengths(found),
    ]
    return [sentence for sentence in said if sentence]


def to_html(report: Report) -> str:
    """The whole page as text. Nothing in it asks for another file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report.render", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    folder = Path(__file__).parent
    return environment.get_template("page.html.j2").render(
        **_words(report),
        report=report,
        recipe=report.recipe,
        css=Markup(_css()),
        js=Markup((folder / "page.js").read_text()),
        svg=Markup,
        most_rows=MOST_ROWS,
        base64=lambda text: base64.b64encode(text.encode()).decode(),
    )


def to_report_markdown(report: Report) -> str:
    words = _words(report)
    parts = [f"# {escape_markdown(words['title'])}"]
    parts += [
        escape_markdown(sentence) for sentence in (*report.sentences, *report.more, *report.caveats)
    ]
    parts += [words["left_out"]] if words["left_out"] else []
    if report.unfinished:
        names = "\n".join(
            f"- {escape_markdown(f'{row.stage}: failed: {row.reason}' if row.reason else row.stage)}"
            for row in report.unfinished
        )
        parts.append(
            f"{len(report.unfinished)} of {words['num_stages']} stages have no result yet:\n\n{names}"
        )
    if words["differences"].rows:
        parts += ["## Behind these sentences", to_markdown(words["differences"])]
    for section in report.sections:
        if section.all_tables or section.sentences:
            parts += [
                f"## {section.title}",
                *map(escape_markdown, section.sentences),
                *map(to_markdown, section.all_tables),
            ]
    ran = [
        table
        for table in (words["kinds"], words["environment"], words["betons"], words["stages"])
        if table.rows
    ]
    if ran:
        parts += ["## What ran", *map(to_markdown, ran)]
    parts += ["## Recipe", f"````yaml\n{words['recipe_yaml'].replace('````', '')}````"]
    return "\n\n".join(parts) + "\n"


def to_csv_files(report: Report) -> dict[str, str]:
    """File name -> text. One line for each row that was measured or worked out; and each plot with its numbers."""
    found = report.analysis
    kinds: dict[str, tuple[type, Sequence[Any]]] = {
        "accuracy": (rows.AccuracyRow, report.accuracy),
        "transfer": (rows.TransferRow, report.transfer),
        "transfer_grid": (rows.GridRow, report.grid),
        "scores": (rows.ScoreRow, report.scores),
        "coarse": (CoarseRow, report.coarse),
        "differences": (DifferenceRow, [DifferenceRow.of(effect) for effect in found.effects]),
        "comparisons": (Comparison, found.comparisons),
        "image_tests": (ImageTest, found.image_tests),
        "against_scratch": (AgainstScratch, found.against_scratch),
        "standings": (
            board.Standing,
            [one for standings in found.standings.values() for one in standings],
        ),
        "associations": (board.Association, found.associations),
        "predictors": (predictors.PredictorRow, found.predictor_rows),
        "predictor_powers": (predictors.Power, found.powers),
        "classes": (rows.ClassRow, report.classes),
        "timing": (run_rows.TimingRow, report.timing),
        "betons": (run_rows.BetonRow, report.betons),
        "stages": (run_rows.StageRow, report.stages),
        "environment": (run_rows.EnvironmentRow, report.environment),
        "unfinished": (run_rows.UnfinishedRow, report.unfinished),
    }
    files = {f"{name}.csv": to_csv(kind, of_kind) for name, (kind, of_kind) in kinds.items()}
    css = _css()
    for panel in (panel for section in report.sections for panel in section.all_panels):
        files |= {
            f"figures/{panel.name}.csv": panel.data,
            f"figures/{panel.name}.svg": plot.standalone(panel.svg, css),
        }
    return files


def _css() -> str:
    return (Path(__file__).parent / "page.css").read_text()


def _words(report: Report) -> dict[str, Any]:
    """The tables and facts that every form of the report shows beside its sections."""
    recipe = report.recipe
    averaged = [
        effect
        for effect in report.analysis.effects
        if effect.axis != "subset" or len(recipe.eps) == 1 or len(effect.over.get("eps", ())) > 1
    ]
    return {
        "title": recipe.question or recipe.name,
        "differences": run_tables.effects_table(averaged),
        "betons": run_tables.beton_table(report.betons),
        "kinds": run_tables.kinds_table(report.stages),
        "environment": run_tables.environment_table(report.environment),
        "stages": run_tables.stages_table(report.stages),
        "facts": _facts(report),
        "num_failed": sum(bool(row.reason) for row in report.unfinished),
        "num_stages": len(report.stages) + len(report.unfinished),
        "left_out": _about_left_out(report),
        "recipe_yaml": _yaml(recipe),
    }


def _about_left_out(report: Report) -> str:
    """Of stages that a shortlist spares: they are neither done nor missing."""
    asked = report.recipe.shortlist
    if asked is None or not report.num_left_out:
        return ""
    count = "1 stage was" if report.num_left_out == 1 else f"{report.num_left_out} stages were"
    return f"{count} left out: {', '.join(asked.methods)} ran for the best {asked.best} models by {asked.by} only."


def _facts(report: Report) -> list[tuple[str, str]]:
    """The few facts that stand under the title; empty where nothing has run."""
    if not report.stages:
        return []
    commonest = {row.name: row.value for row in reversed(report.environment)}
    machine = commonest.get("gpu")
    if machine in (None, "none"):
        machine = commonest.get("cpu")
    versions = [(name, commonest.get(f"packages.{name}")) for name in ("torch", "ffcv")]
    seeds = ", ".join(map(str, report.recipe.seeds))
    facts = [
        ("stages", f"{len(report.stages)} of {len(report.stages) + len(report.unfinished)} done"),
        ("computing time", run_tables.duration(sum(row.wall_s for row in report.stages))),
        ("seeds" if len(report.recipe.seeds) > 1 else "seed", seeds),
        ("on", machine or ""),
        ("with", ", ".join(f"{name} {version}" for name, version in versions if version)),
        ("begun", min(row.started_at for row in report.stages)[:10]),
    ]
    return [(name, value) for name, value in facts if value]


def _yaml(recipe: Recipe) -> str:
    text = io.StringIO()
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # innermost lists and mappings on one line
    yaml.sort_base_mapping_type_on_output = False  # the order of the settings
    yaml.width = 160
    yaml.dump(recipe.model_dump(mode="json"), text)
    return text.getvalue()
