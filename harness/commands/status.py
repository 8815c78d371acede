"""Show how far a recipe's matrix is."""

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from harness.commands._recipe import recipe_argument
from harness.folders import Folders, folder_options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from harness.done import State
    from harness.matrix import Matrix

WATCH_EVERY_S = 1.0
MARKS: "dict[State, str]" = {"done": "[green]done[/green]", "running": "[cyan]runs[/cyan]", "failed": "[red]failed[/red]",
         "left": "[dim]-[/dim]"}


@click.command(short_help="Show a recipe's matrix as a table, live with --watch.")
@recipe_argument
@folder_options
@click.option("--watch", is_flag=True, help="Stay and show it live; Ctrl-C ends it.")
@click.option("--json", "as_json", is_flag=True, help="For programs: as of `harness plan --json`.")
def command(recipe_name: str, overrides: tuple[str, ...], folders: Folders, watch: bool, as_json: bool) -> None:
    """Show RECIPE's matrix as a table, a row for each model, with what runs and what has failed."""
    from rich.live import Live

    from harness import console, matrix, recipe
    from harness.commands import plan as plan_command

    plan = matrix.expand(recipe.read(recipe_name, overrides))
    if as_json:
        plan_command.print_json(plan, folders)
        return
    terminal = console.out()
    if not watch:
        terminal.print(_picture(plan, folders))
        return
    with Live(_picture(plan, folders), console=terminal, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_EVERY_S)
            live.update(_picture(plan, folders), refresh=True)


def _picture(plan: "Matrix", folders: Folders) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from harness import display, done
    from harness.commands.plan import states_of
    from harness.executor import unfinished

    states = states_of(plan, folders, unfinished(plan, folders))
    counts = Counter(states.values())
    title = f"{plan.recipe.name}: " + ", ".join(f"{counts[state]} {state}" for state in MARKS if counts[state])
    details = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for stage in plan.stages:
        folder = stage.folder(folders.runs)
        if states[stage.key] == "running":
            details.add_row("runs", stage.name, Text(display.describe_progress(display.progress_of(folder))))
        elif states[stage.key] == "failed":
            details.add_row("[red]failed[/red]", stage.name, Text(done.error_line(folder) or "", style="red"))
    return Group(Text(title, style="bold"), _preparation(plan, states), _models(plan, states), details)


def _preparation(plan: "Matrix", states: "dict[str, State]") -> "RenderableType":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for stage in plan.stages:
        if stage.kind == "write" or "role" in stage.axes:
            table.add_row(stage.name, MARKS[states[stage.key]])
    return table


def _models(plan: "Matrix", states: "dict[str, State]") -> "RenderableType":
    """A row for each pretrained model; its transfers are counted per method."""
    from rich.table import Table

    methods = list(plan.recipe.methods)
    rows: dict[tuple[Any, ...], dict[str, list[State]]] = {}
    for stage in plan.stages:
        if stage.kind in ("pretrain", "evaluate", "transfer") and "role" not in stage.axes:
            row = rows.setdefault(tuple(stage.axes[axis] for axis in ("subset", "arch", "eps", "seed")), {})
            row.setdefault(stage.axes.get("method", stage.kind), []).append(states[stage.key])
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("subset", "arch", "eps", "seed", "pretrain", "evaluate", *methods):
        table.add_column(column)
    for axes, row in rows.items():
        cells = [MARKS[row[kind][0]] if kind in row else "" for kind in ("pretrain", "evaluate")]
        table.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in axes), *cells,
                      *(_count(row.get(method, [])) for method in methods))
    return table


def _count(states: "list[State]") -> str:
    counts = Counter(states)
    marks = [f"{counts['done']}/{len(states)}"]
    marks += [f"[cyan]{counts['running']} run[/cyan]"] if counts["running"] else []
    marks += [f"[red]{counts['failed']} failed[/red]"] if counts["failed"] else []
    return " ".join(marks)
