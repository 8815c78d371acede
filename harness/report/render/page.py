"""Write a report: one self-contained HTML page, or Markdown, and every number as CSV.

Equal results give equal bytes. Stages without a result are listed; the report has all others.
"""

import base64
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import jinja2
from markupsafe import Markup, escape
from ruamel.yaml import YAML

from harness.config.recipe import Recipe
from harness.report import ANSWER_FILE
from harness.report.data import records, run_rows
from harness.report.data.flat import to_parquet
from harness.report.data.grid_rows import GridRows
from harness.report.render.figures import plot
from harness.report.render.report import Report, collect
from harness.report.render.table_html import table_line
from harness.report.render.tables import runs
from harness.report.render.tables.grid_csv import grid_csv
from harness.report.render.tables.table import Table, escape_markdown, to_csv, to_markdown
from harness.report.stats.architectures import Association, SignRow
from harness.report.stats.comparisons import Comparison, ScratchComparison
from harness.report.stats.convergence import Convergence
from harness.report.stats.effects import DifferenceRow
from harness.report.stats.fit_measures import FitMeasure
from harness.report.stats.image_tests import ImageTest
from harness.report.stats.leaderboard import RankedModel, SeedMedian, TopCount
from harness.report.stats.predictors import PredictorFit, PredictorRow
from harness.runner.result import Result
from harness.system.atomic_write import open_atomically
from writers.errors import UserError
from writers.text_names import counted, printable_lines

FORMATS = ("html", "md", "csv", "parquet")
MAX_ROWS = 1000  # largest number of rows of a table in the page; longer ones slow browsers down
_NUM_WRITERS = 8  # threads that write files
_FOLDER = Path(__file__).parent


class Frame(TypedDict):
    """Tables and facts that HTML and Markdown show in addition to the sections."""

    title: str
    differences: Table
    betons: Table
    kinds: Table
    environment: Table
    stages: Table
    facts: list[tuple[str, str]]
    num_failed: int
    num_stages: int
    skipped: str
    about_left_out: str
    recipe_yaml: str


def write(
    recipe: Recipe,
    results: Sequence[Result],
    unfinished: Sequence[str],
    out: Path,
    formats: Sequence[str] = ("html", "csv"),
    *,
    failed: Mapping[str, str] | None = None,
    predictions: Mapping[str, Path] | None = None,
    skipped: Sequence[str] = (),
) -> Path:
    """Write the report into the folder `out` and return the file to open first.

    Args:
        recipe: the recipe that the results belong to.
        results: finished stages.
        unfinished: names of stages without a result.
        out: folder, created if needed.
        formats: see `write_collected`.
        failed: name -> reason, for unfinished stages that failed.
        predictions: key of a transfer -> its file of predictions, for tests on images.
        skipped: names of stages that the shortlist skipped.

    Raises:
        UserError: a format is unknown, pyarrow is missing, or `out` cannot be written.
    """
    report = collect(recipe, results, unfinished, failed or {}, predictions or {}, skipped)
    return write_collected(report, out, formats)


def write_collected(report: Report, out: Path, formats: Sequence[str]) -> Path:
    """Write a collected report into the folder `out` and return the file to open first.

    ANSWER_FILE, which has the headline and the warnings, is always written.

    Args:
        report: content of the report.
        out: folder, created if needed.
        formats: `html` writes index.html; `md` writes report.md; `csv` and `parquet` write one
            file per kind of row; `csv` also writes `figures/` with each plot as SVG and CSV.

    Raises:
        UserError: a format is unknown or none is given, pyarrow is missing, or `out` cannot be
            written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UserError(
            f"Unknown report format '{', '.join(unknown)}'.", f"Known: {', '.join(FORMATS)}."
        )
    first = ""
    try:
        # Write with threads, because waiting for the disk takes longer than anything else.
        with ThreadPoolExecutor(_NUM_WRITERS) as writers:
            pending: deque[Future[None]] = deque()
            for name, content in _files(report, formats):
                first = first or name
                # Wait for a thread: the formatted files of a large report would fill the memory.
                if len(pending) == _NUM_WRITERS:
                    pending.popleft().result()
                pending.append(writers.submit(_write_file, out / name, content))
            for future in pending:
                future.result()
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {out}: {error.strerror}.",
            "Choose another folder: --out DIR",
        ) from error
    return out / first


def _write_file(path: Path, content: str | Iterable[bytes]) -> None:
    with open_atomically(path) as file:
        file.writelines([content.encode()] if isinstance(content, str) else content)


def _files(report: Report, formats: Sequence[str]) -> Iterator[tuple[str, str | Iterable[bytes]]]:
    """Iterate over names and contents of all files; a large table comes in parts."""
    if "html" in formats:
        yield "index.html", to_html(report)
    if "md" in formats:
        yield "report.md", to_report_markdown(report)
    if "csv" in formats:
        yield from _csv_files(report)
    if "parquet" in formats:
        for name, (kind, rows) in record_tables(report).items():
            yield f"{name}.parquet", [to_parquet(kind, rows)]
    yield ANSWER_FILE, "".join(f"{line}\n" for line in (report.headline, *report.warnings))


def to_html(report: Report) -> str:
    """Format as one page that loads no other file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report.render", ""),
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        **_frame(report),
        report=report,
        robustness="" if _opens_with_robustness(report) else report.robustness,
        findings=_findings(report),
        recipe=report.recipe,
        css=Markup(_css()),
        js=Markup((_FOLDER / "page.js").read_text()),
        svg=Markup,
        prose=_prose,
        line=table_line,
        max_rows=MAX_ROWS,
        base64=lambda text: base64.b64encode(text.encode()).decode(),
    )


def _opens_with_robustness(report: Report) -> bool:
    """Return True if the headline is part of the paragraph on robustness."""
    return report.headline in report.robustness


def _findings(report: Report) -> list[str]:
    """Return the folded paragraphs: all but the headline and a paragraph on robustness above."""
    shown = () if _opens_with_robustness(report) else (report.robustness,)
    paragraphs = [
        " ".join(text.replace(report.headline, " ").split())
        for text in report.sentences
        if text not in shown
    ]
    return [text for text in (*paragraphs, *report.more) if text and text not in shown]


def _prose(text: str) -> Markup:
    """Escape a sentence, and prevent line breaks within `top-1` and at `±`."""
    escaped = str(escape(printable_lines(text)))
    words = re.sub(r"top-1|([−+]?[\d.]+ )?± [\d.]+", r'<span class="word">\g<0></span>', escaped)
    return Markup(words)


def _finalize(value: object) -> object:
    """Replace control characters in free text, such as class names; keep this package's markup."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable_lines(str(value)) if is_text else value


def to_report_markdown(report: Report) -> str:
    """Format as Markdown, without figures."""
    frame = _frame(report)
    parts = [f"# {escape_markdown(frame['title'])}"]
    parts += [
        escape_markdown(sentence)
        for sentence in (*report.sentences, *report.more, *report.warnings, *report.caveats)
    ]
    parts += [frame["skipped"]] if frame["skipped"] else []
    if report.left_out:
        names = "\n".join(
            f"- {escape_markdown(f'{row.stage}: {row.reason}')}" for row in report.left_out
        )
        parts.append(f"{frame['about_left_out']}\n\n{names}")
    if report.unfinished:
        names = "\n".join(
            f"- {escape_markdown(row.stage + (f': failed: {row.reason}' if row.reason else ''))}"
            for row in report.unfinished
        )
        parts.append(
            f"{len(report.unfinished):,} of {frame['num_stages']:,} stages "
            f"{'has' if len(report.unfinished) == 1 else 'have'} no result yet:"
            f"\n\n{names}"
        )
    if frame["differences"].rows:
        parts += ["## Differences in these sentences", to_markdown(frame["differences"])]
    for section in report.sections:
        if section.all_tables or section.sentences:
            parts += [
                f"## {section.title}",
                *map(escape_markdown, section.sentences),
                *map(to_markdown, section.all_tables),
            ]
    tables = (frame["kinds"], frame["environment"], frame["betons"], frame["stages"])
    if any(table.rows for table in tables):
        parts += ["## Stages and environment", *(to_markdown(t) for t in tables if t.rows)]
    parts += ["## Recipe", f"````yaml\n{frame['recipe_yaml'].replace('````', '')}````"]
    return "\n\n".join(parts) + "\n"


def record_tables(report: Report) -> dict[str, tuple[type, Iterable[object]]]:
    """Return name of a table -> (type of its rows, the rows)."""
    analysis = report.analysis
    return {
        "accuracy": (records.AccuracyRow, report.accuracy),
        "transfer": (records.TransferRow, report.transfer),
        "transfer_grid": (records.GridRow, report.grid),
        "scores": (records.ScoreRow, report.scores),
        "coarse": (records.CoarseRow, report.coarse),
        "source_accuracy": (records.SourceAccuracyRow, report.source_accuracy),
        "differences": (DifferenceRow, [DifferenceRow.of(effect) for effect in analysis.effects]),
        "comparisons": (Comparison, analysis.comparisons),
        "image_tests": (ImageTest, analysis.image_tests),
        "against_scratch": (ScratchComparison, analysis.against_scratch),
        "standings": (
            RankedModel,
            [model for ranking in analysis.rankings.values() for model in ranking],
        ),
        "associations": (Association, analysis.associations),
        "signs": (SignRow, analysis.signs),
        "top_counts": (TopCount, analysis.top_counts),
        "convergence": (Convergence, analysis.convergences),
        "predictors": (PredictorRow, analysis.predictor_rows),
        "predictor_powers": (PredictorFit, analysis.predictor_fits),
        "medians": (SeedMedian, analysis.medians),
        "fit_measures": (FitMeasure, report.fit_measures),
        "classes": (records.ClassRow, report.classes),
        "timing": (run_rows.TimingRow, report.timing),
        "betons": (run_rows.BetonRow, report.betons),
        "stages": (run_rows.StageRow, report.stages),
        "environment": (run_rows.EnvironmentRow, report.environment),
        "unfinished": (run_rows.UnfinishedRow, [*report.unfinished, *report.left_out]),
    }


def _csv_files(report: Report) -> Iterator[tuple[str, str | Iterable[bytes]]]:
    """Iterate over one file per kind of row, and over each plot with its numbers."""
    for name, (kind, rows) in record_tables(report).items():
        if isinstance(rows, GridRows):
            yield f"{name}.csv", grid_csv(rows.grids())
        else:
            yield f"{name}.csv", to_csv(kind, rows)
    css = _css()
    panels = [panel for section in report.sections for panel in section.all_panels]
    for panel in [*([report.lead] if report.lead else []), *panels]:
        yield f"figures/{panel.name}.csv", panel.data
        yield f"figures/{panel.name}.svg", plot.standalone(panel.svg, css)


def _css() -> str:
    return (_FOLDER / "page.css").read_text()


def _frame(report: Report) -> Frame:
    recipe = report.recipe
    # Subset effects of a single eps are in the CSV only.
    averaged = [
        effect
        for effect in report.analysis.effects
        if effect.axis != "subset" or len(recipe.eps) == 1 or len(effect.over.get("eps", ())) > 1
    ]
    return {
        "title": recipe.question or recipe.name,
        "differences": runs.effects_table(averaged),
        "betons": runs.beton_table(report.betons),
        "kinds": runs.kinds_table(report.stages),
        "environment": runs.environment_table(report.environment),
        "stages": runs.stages_table(report.stages),
        "facts": _facts(report),
        "num_failed": sum(bool(row.reason) for row in report.unfinished),
        "num_stages": _num_stages(report),
        "skipped": _about_skipped(report),
        "about_left_out": _about_left_out(report),
        "recipe_yaml": _yaml(recipe),
    }


def _num_stages(report: Report) -> int:
    return len(report.stages) + len(report.unfinished) + len(report.left_out)


def _about_left_out(report: Report) -> str:
    """State how many results cannot be used; "" if all can be used."""
    if not report.left_out:
        return ""
    count = counted(len(report.left_out), "result", ("is", "are"))
    return f"{count} left out: the record is damaged, or a value is missing or impossible."


def _about_skipped(report: Report) -> str:
    """Explain the stages that a shortlist skipped; they are neither finished nor missing."""
    shortlist = report.recipe.shortlist
    if shortlist is None or not report.num_skipped:
        return ""
    count = "1 stage was" if report.num_skipped == 1 else f"{report.num_skipped:,} stages were"
    models = "best model" if shortlist.best == 1 else f"best {shortlist.best} models"
    methods = ", ".join(shortlist.methods)
    return f"{count} skipped: {methods} ran only for the {models} by {shortlist.by}."


def _facts(report: Report) -> list[tuple[str, str]]:
    """Return the facts that are shown under the title; empty if nothing has run."""
    if not report.stages:
        return []
    most_frequent = {row.name: row.value for row in reversed(report.environment)}
    machine = most_frequent.get("gpu")
    if machine in (None, "none"):
        machine = most_frequent.get("cpu")
    versions = [(name, most_frequent.get(f"packages.{name}")) for name in ("torch", "ffcv")]
    seeds = ", ".join(map(str, report.recipe.seeds))
    facts = [
        (
            "stages",
            f"{len(report.stages):,} of {_num_stages(report):,} done",
        ),
        ("computing time", runs.duration(sum(row.wall_s for row in report.stages))),
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
    yaml.sort_base_mapping_type_on_output = False  # keep the order of the settings
    yaml.width = 160
    yaml.dump(recipe.model_dump(mode="json"), text)
    return text.getvalue()
