"""Write a recipe's report from the results on disk."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import folder_options, recipe_argument
from harness.cli.path_types import PathType
from harness.system.folders import Folders, user_cache

if TYPE_CHECKING:
    from harness.matrix.expand import Matrix
    from harness.report.render.report import Report


@click.command(short_help="Write a recipe's report from the existing results.")
@recipe_argument
@folder_options
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["html", "md", "csv", "parquet"]),
    default=("html", "csv"),
    show_default=True,
    help="Format to write; may be repeated.",
)
@click.option(
    "--out",
    type=PathType(file=False),
    metavar="DIR",
    help="Folder to write. Default: reports/<recipe> in the runs folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the path of the report.")
def command(
    recipe_name: str,
    overrides: tuple[str, ...],
    folders: Folders,
    formats: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Write RECIPE's report from the stages that are done. Runs nothing.

    Example: harness report demo --format html --format md --out report
    """
    from harness.config.load import read
    from harness.runner.inputs import expand_accepted

    matrix = expand_accepted(read(recipe_name, overrides, user_cache()), folders.runs)
    page = write_report(matrix, folders, formats, out)
    click.echo(json.dumps({"report": str(page)}) if as_json else page)


def write_report(
    matrix: "Matrix",
    folders: Folders,
    formats: tuple[str, ...] = ("html", "csv"),
    out: Path | None = None,
) -> Path:
    """Write the report of all finished stages.

    Results shared with other recipes get the stage names of this one.

    Args:
        matrix: Stages of the recipe.
        folders: Folders of the runs.
        formats: html, md, csv, parquet.
        out: Folder to write; None for reports/<recipe> in the runs folder.

    Returns:
        Path of the page.
    """
    from harness.report.render import page

    folder = out or folders.runs / "reports" / matrix.recipe.name
    with _blame_results(matrix, folders):
        return page.write_collected(collect_report(matrix, folders), folder, formats)


def collect_report(matrix: "Matrix", folders: Folders) -> "Report":
    """Read all finished stages and compute the content of the report."""
    from harness.report.data.compact import Compactor
    from harness.report.render import report
    from harness.runner import shortlist, stage_state
    from harness.runner.metrics_types import load_checked

    results, unfinished, left_out = [], [], []
    compactor = Compactor()
    skipped = shortlist.skipped(matrix.stages, folders.runs)
    failed, predictions = {}, {}
    for stage in matrix.stages:
        record = load_checked(stage.folder(folders.runs), stage.package)
        if record is None and stage.key in skipped:
            left_out.append(stage.name)
        elif record is None:
            unfinished.append(stage.name)
            if reason := stage_state.error_line(stage.folder(folders.runs)):
                failed[stage.name] = reason
        else:
            results.append(compactor.compact(record, stage))
            if "predictions" in record.metrics:
                file_name = Path(record.metrics["predictions"]).name  # never outside of the folder
                predictions[stage.key] = stage.folder(folders.runs) / file_name
    with _blame_results(matrix, folders):
        return report.collect(matrix.recipe, results, unfinished, failed, predictions, left_out)


@contextmanager
def _blame_results(matrix: "Matrix", folders: Folders) -> Iterator[None]:
    """Raise UserError for a failure of the block if a result lacks a field.

    If every result is complete, the failure is a bug of the report, and is raised as it is.
    """
    from harness.runner import metrics_types

    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        for stage in matrix.stages:
            folder = stage.folder(folders.runs)
            record = metrics_types.load_checked(folder, stage.package)
            if record is not None and (
                wrong := metrics_types.problem(record, stage.package, may_lack=False)
            ):
                raise metrics_types.edited(folder, wrong) from error
        raise
