"""Show the progress of a recipe's stages."""

import time
from collections import Counter
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import folder_options, optional_recipe_argument, refuse_given
from harness.system.folders import Folders, user_cache
from writers.text_names import counted

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from harness.matrix.expand import Matrix
    from harness.runner.stage_state import State

WATCH_EVERY_S = 1.0
# Role: purpose of a model that is not in the study, such as scoring classes for a subset. If more
# stages than this have the same kind and role, one line counts them.
MAX_ALIKE = 5
MAX_ROWS = 200  # largest number of models in the table
# Text and style of each state.
MARKS: "dict[State, tuple[str, str]]" = {
    "done": ("done", "green"),
    "running": ("runs", "cyan"),
    "failed": ("failed", "red"),
    "left": ("-", "dim"),
    "skipped": ("skipped", "dim"),
}

SCRATCH = "(scratch)"  # name of the rows of models without pretraining; no subset has it
# Axes that identify a row of the table.
MODEL_AXES = ("model", "subset", "arch", "variant", "eps", "seed")


@click.command(short_help="Show a recipe's matrix as a table, live with --watch.")
@optional_recipe_argument
@folder_options
@click.option("--watch", is_flag=True, help="Update the table until every stage is done.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON of harness plan --json.")
def command(
    recipe_name: str | None,
    overrides: tuple[str, ...],
    folders: Folders,
    watch: bool,
    as_json: bool,
) -> None:
    """Show the matrix of RECIPE, one row per model, with running and failed stages.

    Without RECIPE, list the recipes that ran here. --watch ends when every stage is done, or on
    Ctrl-C.

    Example: harness status robust_l2 --watch
    """
    from harness.cli import console
    from harness.cli.commands import _inputs
    from harness.cli.commands import plan as plan_command
    from harness.config.load import read
    from harness.runner.executor import unfinished
    from writers.errors import UserError

    if watch and as_json:
        raise UserError("--watch has no effect with --json.", "Remove one of them.")
    if recipe_name is None:
        refuse_given(("overrides", "watch", "as_json"), "without RECIPE", "Name a recipe.")
        _list_recipes(folders)
        return
    planned = _inputs.plan(read(recipe_name, overrides, user_cache()), folders)
    plan = planned.matrix
    if as_json:
        left = unfinished(plan, folders)
        states = plan_command.states_of(plan, folders, left)
        plan_command.print_json(planned, states, left, folders)
        return
    _inputs.warn_of_namesake(recipe_name, overrides, plan.recipe.name, folders)
    _inputs.print_lines(planned, folders)
    if watch:
        _watch(plan, folders)
    else:
        console.out().print(_render(plan, folders, _states(plan, folders)))


def _list_recipes(folders: Folders) -> None:
    """Print a command for each recipe of a run or a report.

    Raises:
        UserError: there are none.
    """
    import shlex

    from harness.runner import recipe_origin
    from writers.errors import UserError

    recorded = recipe_origin.recorded(folders.runs)
    if not recorded:
        raise UserError(
            f"No recipe has run in {folders.runs}.",
            "Set --runs-dir to the folder of the runs, or name a recipe: harness status demo",
        )
    click.echo(f"Recipes with runs or reports in {folders.runs}:")
    for recipe, overrides in recorded:
        options = [word for text in overrides for word in ("--set", text)]
        click.echo(f"  harness status {shlex.join([recipe, *options])}")


def _watch(plan: "Matrix", folders: Folders) -> None:
    """Show the matrix until every stage is done or skipped.

    A pipe or a file gets the matrix at the beginning and a line after each change.
    """
    from rich.live import Live

    from harness.cli import console

    terminal = console.out()
    states = _states(plan, folders)
    shown = _render(plan, folders, states)
    if not terminal.is_terminal:
        terminal.print(shown)
    with (
        Live(shown, console=terminal, auto_refresh=False)
        if terminal.is_terminal
        else nullcontext() as live
    ):
        while not _is_over(states):
            time.sleep(WATCH_EVERY_S)
            before, states = states, _states(plan, folders)
            if live is not None:
                live.update(_render(plan, folders, states), refresh=True)
            elif states != before:
                click.echo(_totals(plan, states, folders))


def _states(plan: "Matrix", folders: Folders) -> "dict[str, State]":
    from harness.cli.commands.plan import states_of
    from harness.runner.executor import unfinished

    return states_of(plan, folders, unfinished(plan, folders))


def _is_over(states: "dict[str, State]") -> bool:
    return all(state in ("done", "skipped") for state in states.values())


def _render(plan: "Matrix", folders: Folders, states: "dict[str, State]") -> "RenderableType":
    """Build the output. Running and failed stages come first: a live display is cut at the bottom.

    Stages whose job waits in a cluster's queue are shown with the running ones.
    """
    from rich.console import Group
    from rich.text import Text

    from harness.cli import live_table
    from harness.runner import queue_state

    running = [
        (stage, _running_for(stage.folder(folders.runs)))
        for stage in plan.stages
        if states[stage.key] == "running"
        or (states[stage.key] == "left" and queue_state.read(stage.folder(folders.runs)))
    ]
    parts: list[RenderableType] = [Text(_totals(plan, states, folders), style="bold")]
    parts += [live_table.running_table(running, folders.runs)] if running else []
    return Group(
        *parts, *_failures(plan, states, folders), _preparation(plan, states), _models(plan, states)
    )


def _totals(plan: "Matrix", states: "dict[str, State]", folders: Folders) -> str:
    """Format `demo: 12 of 43 stages done, 31 left (2 begun), about 4 min of work; retries: 3`.

    Begun stages have a checkpoint, from which the next run continues.
    """
    from harness.cli.console import seconds
    from harness.estimate.estimate import estimate
    from harness.runner import retry, stage_state

    counts = Counter(states.values())
    started = stage_state.with_folder(folders.runs, {stage.kind for stage in plan.stages})
    num_begun = sum(
        any(stage.folder(folders.runs).glob("checkpoints/*.pt"))
        for stage in plan.stages
        if states[stage.key] == "left" and stage.key in started
    )
    parts = [
        f"{counts['done']:,} of {counted(len(plan.stages), 'stage')} done",
        *(
            f"{counts[state]:,} {state}"
            + (f" ({num_begun:,} begun)" if num_begun and state == "left" else "")
            for state in MARKS
            if counts[state] and state != "done"
        ),
    ]
    not_done = {
        stage.key: stage
        for stage in plan.stages
        if states[stage.key] in ("running", "failed", "left")
    }
    known = estimate(not_done, folders.runs)
    if known.num_unknown < len(not_done):
        more = (
            f" and {counted(known.num_unknown, 'stage')} of unknown length"
            if known.num_unknown
            else ""
        )
        parts.append(f"about {seconds(3600 * known.hours)} of work{more}")
    tried = (stage for stage in plan.stages if states[stage.key] != "skipped")
    retries = retry.total(tried, folders.runs)
    return f"{plan.recipe.name}: {', '.join(parts)}" + (f"; retries: {retries}" if retries else "")


def _running_for(folder: Path) -> float | None:
    """Seconds since the stage was assigned to its worker; None if it has not been assigned."""
    try:
        return max(0.0, time.time() - (folder / "stage.json").stat().st_mtime)
    except OSError:
        return None


def _failures(
    plan: "Matrix", states: "dict[str, State]", folders: Folders
) -> "list[RenderableType]":
    from rich.text import Text

    from harness.runner import stage_state
    from writers.text_names import printable

    return [
        Text.assemble(
            (f"failed  {stage.name}: ", "red"),
            printable(stage_state.error_line(stage.folder(folders.runs)) or ""),
        )
        for stage in plan.stages
        if states[stage.key] == "failed"
    ]


def _preparation(plan: "Matrix", states: "dict[str, State]") -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    from harness.matrix.stage import specs_of

    rows: dict[str, list[State]] = {}
    specs = specs_of(plan.stages)
    named = [s for s in plan.stages if specs[s.kind].in_status == "preparation" or "role" in s.axes]
    alike = Counter((stage.axes.get("role", ""), stage.kind) for stage in named)
    for stage in named:
        role = stage.axes.get("role", "")
        # Hundreds of models that score classes are one line per kind.
        is_one_of_many = role and alike[role, stage.kind] > MAX_ALIKE
        name = f"{stage.kind} of {role}" if is_one_of_many else stage.name
        rows.setdefault(name, []).append(states[stage.key])
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, found in rows.items():
        table.add_row(name, _count(found) if len(found) > 1 else Text(*MARKS[found[0]]))
    return table


def _models(plan: "Matrix", states: "dict[str, State]") -> "RenderableType":
    """Build a table with a row per model; scores and transfers are shown as counts.

    Training from scratch has the last rows, and stages that no table shows are counted below. At
    most MAX_ROWS models are shown, unfinished ones first; the others are only counted.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from harness.matrix.stage import specs_of

    rows: dict[tuple[Any, ...], dict[str, list[State]]] = {}
    specs = specs_of(plan.stages)
    for stage in plan.stages:
        point = stage.axes
        if specs[stage.kind].in_status == "models" and "role" not in point:
            # The only axis that identifies an existing model is its name.
            shown_of = {"model": point["model"]} if "model" in point else point
            if "model" not in point and "subset" not in point:
                shown_of = point | {"subset": SCRATCH}
            row = rows.setdefault(tuple([shown_of.get(axis, "") for axis in MODEL_AXES]), {})
            row.setdefault(point.get("method", stage.kind), []).append(states[stage.key])
    rows = dict(sorted(rows.items(), key=lambda item: SCRATCH in item[0]))
    axes = [axis for index, axis in enumerate(MODEL_AXES) if any(row[index] != "" for row in rows)]
    methods = list(plan.recipe.methods)
    kinds = [kind for kind in dict.fromkeys(chain(*rows.values())) if kind not in methods]
    of_targets = {stage.kind for stage in plan.stages if "target" in stage.axes}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in (*axes, *kinds, *methods):
        table.add_column(column)
    shown = _shown(rows)
    for values, row in shown.items():
        named = [value for axis, value in zip(MODEL_AXES, values, strict=True) if axis in axes]
        table.add_row(
            *(f"{value:g}" if isinstance(value, float) else str(value) for value in named),
            *(
                ""
                if kind not in row
                else _count(row[kind])
                if kind in of_targets
                else Text(*MARKS[row[kind][0]])
                for kind in kinds
            ),
            *(_count(row[method]) if method in row else "" for method in methods),
        )
    parts: list[RenderableType] = [table]
    if left_out := len(rows) - len(shown):
        parts.append(Text(f"... and {counted(left_out, 'more model')}; --json lists every stage"))
    unnamed: dict[str, list[State]] = {}
    for stage in plan.stages:
        if specs[stage.kind].in_status is None and "role" not in stage.axes:
            unnamed.setdefault(stage.kind, []).append(states[stage.key])
    parts += [Text.assemble(f"{kind}: ", _count(found)) for kind, found in unnamed.items()]
    return Group(*parts)


def _shown(
    rows: "dict[tuple[Any, ...], dict[str, list[State]]]",
) -> "dict[tuple[Any, ...], dict[str, list[State]]]":
    """Choose at most MAX_ROWS rows, unfinished ones first: thousands take seconds to lay out."""
    if len(rows) <= MAX_ROWS:
        return rows
    is_finished = {
        values: all(state == "done" for states in row.values() for state in states)
        for values, row in rows.items()
    }
    chosen = set(sorted(rows, key=lambda values: is_finished[values])[:MAX_ROWS])
    return {values: row for values, row in rows.items() if values in chosen}


def _count(states: "list[State]") -> "Text":
    from rich.text import Text

    counts = Counter(states)
    if counts["skipped"] and counts["skipped"] == len(states):
        return Text(*MARKS["skipped"])
    marks = [Text(f"{counts['done']}/{len(states)}")]
    marks += [Text(f"{counts['running']} run", "cyan")] if counts["running"] else []
    marks += [Text(f"{counts['failed']} failed", "red")] if counts["failed"] else []
    return Text(" ").join(marks)
