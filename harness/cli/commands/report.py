"""Write a recipe's report from the results on disk."""

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from harness.cli import completion
from harness.cli.options import folder_options, set_option
from harness.cli.path_types import PathType
from harness.system.folders import Folders, user_cache
from writers.text_names import counted

if TYPE_CHECKING:
    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage
    from harness.report.render.report import Report
    from harness.runner.result import Result

MAX_PRINTED = 5  # left-out results that are printed; the report's page lists all
Written = TypeVar("Written")


@click.command(short_help="Write a recipe's report, or a leaderboard, from existing results.")
@click.argument(
    "recipe_name", metavar="[RECIPE]", required=False, shell_complete=completion.recipes
)
@set_option
@folder_options
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["html", "md", "csv", "parquet"]),
    help="Format to write; may be repeated. Default: html and csv.",
)
@click.option(
    "--out",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Folder to write. Default: reports/<recipe> in the runs folder.",
)
@click.option(
    "--publish",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Write a leaderboard as a static site instead, or add to the one in DIR.",
)
@click.option(
    "--merge",
    "merged",
    multiple=True,
    type=PathType(exists=True),
    metavar="FILE",
    help="Add another board's rows.json, or a board's folder; may be repeated.",
)
@click.option(
    "--by",
    default="",
    metavar="NAME",
    help="Name of the person who measured the rows of RECIPE; it is published.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the path of the page.")
def command(
    recipe_name: str | None,
    overrides: tuple[str, ...],
    folders: Folders,
    formats: tuple[str, ...],
    out: Path | None,
    publish: Path | None,
    merged: tuple[Path, ...],
    by: str,
    as_json: bool,
) -> None:
    """Write RECIPE's report from the stages that are done. Runs nothing.

    With --publish, write a leaderboard of all its models instead: pages without external requests,
    CSV, Parquet, and rows.json, which others can merge. Publishing again, or another recipe, adds
    to the board in DIR. Without RECIPE, only the files of --merge are added.

    \b
    Examples:
    harness report demo --format html --format md --out report
    harness report demo --publish board --by "Ada Lovelace"
    harness report --publish board --merge friend/rows.json
    """
    from harness.config.load import read
    from harness.runner import recipe_origin
    from harness.runner.inputs import expand_accepted

    _check_options(recipe_name, formats, out, publish, merged, by)
    matrix = None
    if recipe_name is not None:
        matrix = expand_accepted(read(recipe_name, overrides, user_cache()), folders.runs)
    if publish is not None:
        _publish(matrix, folders, publish, merged, by, as_json)
        return
    assert matrix is not None and recipe_name is not None
    _warn_if_empty(matrix, folders)
    if out is None:
        recipe_origin.claim(recipe_name, overrides, matrix.recipe.name, folders.runs)
    page = write_report(matrix, folders, formats or ("html", "csv"), out)
    click.echo(json.dumps({"report": str(page)}) if as_json else page)


def _warn_if_empty(matrix: "Matrix", folders: Folders) -> None:
    from harness.runner import stage_state

    done = stage_state.with_result(folders.runs, {stage.kind for stage in matrix.stages})
    if not any(stage.key in done for stage in matrix.stages):
        click.secho(
            f"No stage of {matrix.recipe.name} is done in {folders.runs}, so the report is empty. "
            "Repeat the --set and --runs-dir of the run.",
            fg="yellow",
            err=True,
        )


def _check_options(
    recipe_name: str | None,
    formats: tuple[str, ...],
    out: Path | None,
    publish: Path | None,
    merged: tuple[Path, ...],
    by: str,
) -> None:
    """Raise a usage error for options that have no effect together."""
    if publish is None and (merged or by):
        raise click.UsageError("--merge and --by need --publish DIR.")
    if recipe_name is None and not merged:
        also = "" if publish is None else " --publish needs it, or --merge FILE."
        raise click.UsageError(f"Missing argument 'RECIPE'.{also}")
    if publish is not None and (formats or out):
        raise click.UsageError("--format and --out have no effect with --publish.")
    if by and recipe_name is None:
        raise click.UsageError("--by has no effect without RECIPE.")


def _publish(
    matrix: "Matrix | None",
    folders: Folders,
    folder: Path,
    merged: tuple[Path, ...],
    by: str,
    as_json: bool,
) -> None:
    """Write the leaderboard, and print its page and what was added."""
    from harness.report.board import exported, extract, site

    new = [exported.read(path) for path in merged]
    if matrix is not None:
        results = [record for _, record in finished(matrix, folders)]
        with _blame_results(matrix, folders):
            new.append(extract.export(matrix.recipe, results, by))
    written = site.publish(folder, new)
    if as_json:
        click.echo(json.dumps({"board": str(written.page), "rows": written.num_rows}))
        return
    click.echo(written.page)
    click.echo(
        f"{counted(written.num_rows, 'row')}, {written.num_added} of them new; "
        f"{counted(written.num_duplicates, 'duplicate')}.",
        err=True,
    )
    if written.num_differing:
        click.echo(
            f"{counted(written.num_differing, 'run', ('was', 'were'))} measured more than once "
            "with different scores; see the page.",
            err=True,
        )
    if not written.has_parquet:
        click.echo("Without pyarrow there is no rows.parquet: pip install pyarrow", err=True)


def write_report(
    matrix: "Matrix",
    folders: Folders,
    formats: tuple[str, ...] = ("html", "csv"),
    out: Path | None = None,
) -> Path:
    """Write the report of all finished stages, and print which results it leaves out.

    In the recipe's own folder, figures of an earlier report are deleted if this one lacks them, and
    the next run writes the report again: this one may be of other settings from --set.

    Results shared with other recipes get the stage names of this one.

    Args:
        matrix: Stages of the recipe.
        folders: Folders of the runs.
        formats: html, md, csv, parquet.
        out: Folder to write; None for reports/<recipe> in the runs folder.

    Returns:
        Path of the page.
    """
    from harness.report.render import folder as report_folder
    from harness.report.render import page

    folder = out or folders.runs / "reports" / matrix.recipe.name
    if out is None:
        (folder / report_folder.MADE_FROM).unlink(missing_ok=True)
    with _no_garbage_collection():
        report, written = _report_readable(
            matrix, folders, lambda report: page.write_collected(report, folder, formats)
        )
    if out is None and "csv" in formats:
        report_folder.delete_other_figures(report, folder)
    _print_left_out(report, folders)
    return written


def _print_left_out(report: "Report", folders: Folders) -> None:
    """Print the results that the report leaves out."""
    for row in report.left_out[:MAX_PRINTED]:
        text = f"The report leaves out {row.stage}: {row.reason}"
        click.secho(text, fg="yellow", err=True)
    more = len(report.left_out) - MAX_PRINTED
    if more > 0:
        text = f"It leaves out {counted(more, 'more result')}, which the page lists."
        click.secho(text, fg="yellow", err=True)
    if report.left_out:
        text = f"Delete the folders of these stages in {folders.runs} to run them again."
        click.secho(text, fg="yellow", err=True)


def finished(
    matrix: "Matrix", folders: Folders, damaged: dict[str, str] | None = None
) -> "Iterator[tuple[Stage, Result]]":
    """Iterate over the recipe's finished stages and their results, which get the stages' names.

    Args:
        matrix: Stages of the recipe.
        folders: Folders of the runs.
        damaged: Receives stage key -> reason for results that cannot be used.

    Raises:
        UserError: A result cannot be used, and `damaged` is None.
    """
    from harness.report.data.compact import Compactor
    from harness.runner.metrics_types import load_checked
    from writers.errors import UserError

    compactor = Compactor()
    for stage in matrix.stages:
        try:
            record = load_checked(stage.folder(folders.runs), stage.package)
        except UserError as error:
            if damaged is None:
                raise
            damaged[stage.key] = error.message
            continue
        if record is not None:
            yield stage, compactor.compact(record, stage)


def collect_report(matrix: "Matrix", folders: Folders) -> "Report":
    """Read all finished stages and compute the content of the report."""
    return _report_readable(matrix, folders, lambda report: None)[0]


def _report_readable(
    matrix: "Matrix", folders: Folders, write: "Callable[[Report], Written]"
) -> "tuple[Report, Written]":
    """Collect and write the report without results that cannot be used.

    A result of an older version may lack a field. Such results are left out only if the report
    fails because of one of them.
    """
    from harness.runner import metrics_types

    damaged: dict[str, str] = {}
    results = {stage.key: record for stage, record in finished(matrix, folders, damaged)}
    while True:
        try:
            report = _collect(matrix, folders, results, damaged)
            return report, write(report)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            missing = [
                (stage, field)
                for stage in matrix.stages
                if stage.key in results
                for field in metrics_types.missing_fields(results[stage.key], stage.package)
            ]
            if not missing:  # a bug of the report
                raise
            needed = [
                (stage, field)
                for stage, field in missing
                if isinstance(error, KeyError) and field.rpartition(".")[2] in error.args
            ]
            for stage, field in needed or missing:
                folder = stage.folder(folders.runs)
                wrong = metrics_types.edited(folder, f"{field}: field required")
                damaged[stage.key] = wrong.message
                results.pop(stage.key, None)


def _collect(
    matrix: "Matrix", folders: Folders, results: "Mapping[str, Result]", damaged: Mapping[str, str]
) -> "Report":
    from harness.report.render import report
    from harness.runner import shortlist, stage_state

    unfinished, not_chosen, left_out = [], [], {}
    skipped = shortlist.skipped(matrix.stages, folders.runs)
    failed, predictions = {}, {}
    for stage in matrix.stages:
        record = results.get(stage.key)
        if stage.key in damaged:
            # Relative paths, because the page may be published.
            left_out[stage.name] = damaged[stage.key].replace(f"{folders.runs}/", "")
        elif record is None and stage.key in skipped:
            not_chosen.append(stage.name)
        elif record is None:
            unfinished.append(stage.name)
            if reason := stage_state.error_line(stage.folder(folders.runs)):
                failed[stage.name] = reason
        elif "predictions" in record.metrics:
            file_name = Path(record.metrics["predictions"]).name  # never outside of the folder
            predictions[stage.key] = stage.folder(folders.runs) / file_name
    return report.collect(
        matrix.recipe,
        list(results.values()),
        unfinished,
        failed,
        predictions,
        not_chosen,
        left_out,
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable the garbage collector in the block: each pass would visit millions of live rows."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _blame_results(matrix: "Matrix", folders: Folders) -> Iterator[None]:
    """Replace an exception of the block by a UserError if a result is damaged or lacks a field.

    If every result is complete, the exception is a bug of the report, and it propagates.
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
