"""Results to a report: one self-contained HTML page, or Markdown, with every number beside it as CSV.

The same results give the same bytes. What has not run yet is said, and stops nothing.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from ruamel.yaml import YAML

from harness.report import answer, figures, rows, run_rows, run_tables, tables
from harness.report.collection import Collection
from harness.report.effects import DifferenceRow, Effect, effects
from harness.report.table import escape_markdown, to_csv, to_markdown
from harness.result import Result, write_atomically
from harness.settings import Recipe
from writers.errors import UserError

FORMATS = ("html", "md", "csv")


@dataclass(frozen=True)
class Report:
    """Everything a report says, before it takes a form."""

    recipe: Recipe
    unfinished: list[run_rows.UnfinishedRow]
    accuracy: list[rows.AccuracyRow]
    transfer: list[rows.TransferRow]
    grid: list[rows.GridRow]
    classes: list[rows.ClassRow]
    subsets_written: list[str]
    timing: list[run_rows.TimingRow]
    betons: list[run_rows.BetonRow]
    stages: list[run_rows.StageRow]
    environment: list[run_rows.EnvironmentRow]
    effects: list[Effect]
    sentences: list[str]
    caveats: list[str]


def write(recipe: Recipe, results: Sequence[Result], unfinished: Sequence[str], out: Path,
          formats: Sequence[str] = ("html", "csv"), failed: Mapping[str, str] | None = None) -> Path:
    """Write the report into the folder `out` and return the file to open first.

    `html` makes index.html, `md` report.md, `csv` one file for each kind of row. `unfinished` names the stages that
    have no result, `failed` says of some of them why. Raises UserError for an unknown format and an unwritable `out`.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UserError(f"A report has no format '{', '.join(unknown)}'.", f"Known: {', '.join(FORMATS)}.")
    report = collect(recipe, results, unfinished, failed or {})
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
        raise UserError(f"The report cannot be written to {out}: {error.strerror}.",
                        "Choose another folder: --out DIR") from error
    return out / next(iter(files))


def collect(recipe: Recipe, results: Sequence[Result], unfinished: Sequence[str], failed: Mapping[str, str]) -> Report:
    """The rows and sentences of a report. A result that is given twice counts once."""
    found = Collection(recipe, results)
    accuracy, transfer = rows.accuracy_rows(found), rows.transfer_rows(found)
    differences = effects(accuracy, transfer)
    return Report(recipe=recipe, unfinished=[run_rows.UnfinishedRow(name, failed.get(name, "")) for name in sorted(unfinished)],
                  accuracy=accuracy, transfer=transfer, grid=rows.grid_rows(found), classes=rows.class_rows(found),
                  subsets_written=list(found.kept_classes), timing=run_rows.timing_rows(found),
                  betons=run_rows.beton_rows(found), stages=run_rows.stage_rows(found),
                  environment=run_rows.environment_rows(found), effects=differences,
                  sentences=answer.answers(accuracy, transfer, differences),
                  caveats=answer.caveats(accuracy, transfer))


def to_html(report: Report) -> str:
    """The whole page as text. Nothing in it asks for another file."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("harness.report", ""), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                                     keep_trailing_newline=True)
    folder = Path(__file__).parent
    return environment.get_template("page.html.j2").render(
        **_words(report), report=report, recipe=report.recipe, css=Markup((folder / "page.css").read_text()),
        js=Markup((folder / "page.js").read_text()), svg=Markup, legend=_legend(report.recipe),
        panels=figures.transfer_panels(report.recipe, report.transfer),
        class_panel=figures.class_panel(report.classes, [subset.name for subset in report.recipe.subsets]))


def to_report_markdown(report: Report) -> str:
    words = _words(report)
    parts = [f"# {escape_markdown(words['title'])}"]
    parts += [escape_markdown(sentence) for sentence in (*report.sentences, *report.caveats)]
    if report.unfinished:
        names = "\n".join(f"- {escape_markdown(f'{row.stage}: failed: {row.reason}' if row.reason else row.stage)}"
                          for row in report.unfinished)
        parts.append(f"{len(report.unfinished)} of {words['num_stages']} stages have no result yet:\n\n{names}")
    sections = {"Differences": [words["effects"]], "Accuracy on the source classes": words["accuracy"],
                "Transfer": [words["transfer"]], "Classes left out": [words["classes"]], "Timing": words["timing"],
                "What ran": [words["kinds"], words["environment"], words["betons"], words["stages"]]}
    for heading, section in sections.items():
        shown = [to_markdown(table) for table in section if table.rows]
        if shown:
            parts += [f"## {heading}", *shown]
    parts += ["## Recipe", f"````yaml\n{words['recipe_yaml'].replace('````', '')}````"]
    return "\n\n".join(parts) + "\n"


def to_csv_files(report: Report) -> dict[str, str]:
    """File name -> text. One line for each row that was measured; averages can be made from them."""
    return {"accuracy.csv": to_csv(rows.AccuracyRow, report.accuracy),
            "transfer.csv": to_csv(rows.TransferRow, report.transfer),
            "transfer_grid.csv": to_csv(rows.GridRow, report.grid),
            "differences.csv": to_csv(DifferenceRow, [DifferenceRow.of(effect) for effect in report.effects]),
            "classes.csv": to_csv(rows.ClassRow, report.classes),
            "timing.csv": to_csv(run_rows.TimingRow, report.timing),
            "betons.csv": to_csv(run_rows.BetonRow, report.betons),
            "stages.csv": to_csv(run_rows.StageRow, report.stages),
            "environment.csv": to_csv(run_rows.EnvironmentRow, report.environment),
            "unfinished.csv": to_csv(run_rows.UnfinishedRow, report.unfinished)}


def _words(report: Report) -> dict[str, Any]:
    """The tables and facts that every form of the report shows."""
    recipe = report.recipe
    averaged = [effect for effect in report.effects if effect.axis == "eps" or len(recipe.eps) == 1
                or len(effect.over.get("eps", ())) > 1]
    removed = [row for row in report.classes if row.removed_by]
    subsets = [subset.name for subset in recipe.subsets]
    return {"title": recipe.question or recipe.name, "accuracy": tables.accuracy_tables(recipe, report.accuracy),
            "effects": run_tables.effects_table(averaged), "transfer": tables.transfer_table(recipe, report.transfer),
            "classes": tables.class_table(report.classes, subsets),
            "subsets_unwritten": [name for name in subsets if name not in report.subsets_written],
            "num_removed": len(removed), "leaving": {row.removed_by[0] for row in removed},
            "timing": run_tables.timing_tables(report.timing),
            "betons": run_tables.beton_table(report.betons), "kinds": run_tables.kinds_table(report.stages),
            "environment": run_tables.environment_table(report.environment),
            "stages": run_tables.stages_table(report.stages), "facts": _facts(report),
            "num_stages": len(report.stages) + len(report.unfinished), "recipe_yaml": _yaml(recipe)}


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
    facts = [("stages", f"{len(report.stages)} of {len(report.stages) + len(report.unfinished)} done"),
             ("computing time", run_tables.duration(sum(row.wall_s for row in report.stages))),
             ("seeds" if len(report.recipe.seeds) > 1 else "seed", seeds), ("on", machine or ""),
             ("with", ", ".join(f"{name} {version}" for name, version in versions if version)),
             ("begun", min(row.started_at for row in report.stages)[:10])]
    return [(name, value) for name, value in facts if value]


def _legend(recipe: Recipe) -> dict[str, Any]:
    series = [{"name": subset.name, "colour": index % figures.NUM_COLOURS + 1,
               "sign": figures.MARKER_SIGNS[index % len(figures.MARKER_SIGNS)]}
              for index, subset in enumerate(recipe.subsets)]
    dashes = {"-": "", "--": "5 3", ":": "1.5 2.5", "-.": "6 2.5 1.5 2.5"}
    return {"series": series, "methods": [{"name": method, "dash": dashes[figures.line_style(recipe, method)]}
                                          for method in recipe.methods]}


def _yaml(recipe: Recipe) -> str:
    text = io.StringIO()
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None                  # innermost lists and mappings on one line
    yaml.sort_base_mapping_type_on_output = False   # the order of the settings
    yaml.width = 160
    yaml.dump(recipe.model_dump(mode="json"), text)
    return text.getvalue()
