"""Write a recipe's report from the results on disk."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import folder_options, recipe_argument
from harness.system.folders import Folders

if TYPE_CHECKING:
    from harness.matrix.expand import Matrix


@click.command(short_help="Write a recipe's report from the results there are.")
@recipe_argument
@folder_options
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["html", "md", "csv"]),
    default=("html", "csv"),
    show_default=True,
    help="May be given again.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Default: reports/<recipe> under the runs folder.",
)
def command(
    recipe_name: str,
    overrides: tuple[str, ...],
    folders: Folders,
    formats: tuple[str, ...],
    out: Path | None,
) -> None:
    """Write RECIPE's report from the stages that are done; runs nothing."""
    from harness.config import load as recipe
    from harness.matrix import expand as matrix

    click.echo(
        write_report(matrix.expand(recipe.read(recipe_name, overrides)), folders, formats, out)
    )


def write_report(
    matrix: "Matrix",
    folders: Folders,
    formats: tuple[str, ...] = ("html", "csv"),
    out: Path | None = None,
) -> Path:
    """Returns the page's path. Shared results were perhaps named by another recipe: here they get this one's names."""
    from harness.report.render import page
    from harness.runner import result, shortlist
    from harness.runner import stage_state as done

    results, unfinished, left_out = [], [], []
    skipped = shortlist.skipped(matrix.stages, folders.runs)
    failed, predictions = {}, {}
    for stage in matrix.stages:
        found = result.load(stage.folder(folders.runs))
        if found is None and stage.key in skipped:
            left_out.append(stage.name)
        elif found is None:
            unfinished.append(stage.name)
            if reason := done.error_line(stage.folder(folders.runs)):
                failed[stage.name] = reason
        else:
            results.append(found.model_copy(update={"axes": stage.axes, "name": stage.name}))
            if stage.kind == "transfer" and "predictions" in found.metrics:
                predictions[stage.key] = stage.folder(folders.runs) / found.metrics["predictions"]
    return page.write(
        matrix.recipe,
        results,
        unfinished,
        out or folders.runs / "reports" / matrix.recipe.name,
        formats,
        failed=failed,
        predictions=predictions,
        left_out=left_out,
    )
