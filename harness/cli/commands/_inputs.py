"""Report inputs of a recipe that have changed or no longer exist, and confirm the changes.

`harness.runner.inputs` compares the contents of the files.
"""

from typing import TYPE_CHECKING

import click

from harness.system.folders import Folders
from writers.text_names import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.config.recipe import Recipe
    from harness.runner.inputs import Plan

ACCEPT = "--accept-changes"


def plan(recipe: "Recipe", folders: Folders) -> "Plan":
    """Expand a recipe with its current inputs; print a line if files must be read again.

    Raises:
        UserError: metrics or methods do not fit the labels of a `.beton` file, or an input is a
            pipe, a device, or a file instead of a folder.
    """
    from harness.config.label_kinds import check_label_kinds
    from harness.runner import inputs

    def on_read(num_files: int, num_bytes: int) -> None:
        click.secho(
            f"Times of {num_files:,} raw files have changed: reading {num_bytes / 1e6:,.0f} MB to "
            "compare their contents.",
            fg="yellow",
            err=True,
        )

    planned = inputs.plan(recipe, folders, on_read)
    check_label_kinds(recipe, planned.matrix.contents)
    return planned


def lines(planned: "Plan", folders: Folders) -> list[str]:
    """Describe changed and missing inputs, one line each.

    A missing input is only described if a finished stage used it.
    """
    from harness.config.inputs import Images
    from harness.runner import stage_state

    described = [
        f"The {change.input.label} have changed: {counted(change.num_stages, 'stage')} would run "
        "again."
        for change in planned.changes
    ]
    reading = [stage for stage in planned.matrix.stages if stage.spec.input_settings]
    done = stage_state.with_result(folders.runs, {stage.kind for stage in reading})
    used = {
        stage.axes.get("dataset") or stage.axes.get("model")
        for stage in reading
        if stage.key in done
    }
    for item in planned.missing:
        label = item.data.label if isinstance(item, Images) else item.model.name
        if label in used:
            described.append(
                f"The {item.label} are not at {item.path(folders.raw)} (--raw-dir sets the "
                "folder). Finished stages keep their results."
            )
    return described


def warn_of_namesake(
    recipe_name: str, overrides: "Sequence[str]", name: str, folders: Folders
) -> None:
    """Print a line on stderr if another recipe file has the name, so that a run is refused.

    Args:
        recipe_name: the recipe on the command line.
        overrides: settings from --set.
        name: name of the recipe with the overrides.
        folders: folders of the runs.
    """
    from harness.runner import recipe_origin

    other = recipe_origin.namesake(recipe_name, overrides, name, folders.runs)
    if other is not None:
        click.secho(
            f"{other} has the name {name}, too, and has used it first: harness run refuses "
            f"{recipe_name}. Change `name:` in one of them.",
            fg="yellow",
            err=True,
        )


def print_lines(planned: "Plan", folders: Folders) -> None:
    """Print `lines` on stderr."""
    for line in lines(planned, folders):
        click.secho(line, fg="yellow", err=True)


def confirm(planned: "Plan", folders: Folders, *, is_accepted: bool) -> None:
    """Record the inputs of a run. Prompt first if finished stages would run again.

    `is_accepted` (--accept-changes) suppresses the prompt.

    Raises:
        UserError: finished stages would run again, stdin is not a terminal, and `is_accepted` is
            False.
        click.Abort: the user answers no.
    """
    import sys

    from harness.runner import inputs
    from writers.errors import UserError

    described = lines(planned, folders)
    if planned.changes and not is_accepted and not sys.stdin.isatty():
        raise UserError(
            " ".join(described),
            f"Pass {ACCEPT} to run them again, or restore the files. Old results are kept.",
        )
    for line in described:
        click.secho(line, fg="yellow", err=True)
    if planned.changes and not is_accepted:
        click.confirm("Run them again? Old results are kept.", abort=True, err=True)
    inputs.accept(planned.matrix, folders.runs)
