"""Show what a recipe would run."""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import folder_options, recipe_argument
from harness.system.folders import Folders

if TYPE_CHECKING:
    from harness.estimate.calibration import Machine
    from harness.estimate.estimate import Estimate
    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage
    from harness.runner.stage_state import State

STATES: "tuple[State, ...]" = ("done", "running", "failed", "left", "skipped")
OVER = ("done", "skipped")
COLOURS = {
    "done": "palegreen",
    "running": "lightskyblue",
    "failed": "salmon",
    "left": "white",
    "skipped": "lightgrey",
}


@click.command(short_help="Show a recipe's stages: done and left. Runs nothing.")
@recipe_argument
@folder_options
@click.option("--stages", "show_stages", is_flag=True, help="Also name every stage.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="First time a few steps, on noise, of each kind of work that nothing on disk tells the time of; kept in "
    "calibration.json in the folder of runs, for this device, and not timed again.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="For programs: every stage with its key, state and needs.",
)
@click.option("--dot", "as_dot", is_flag=True, help="The graph of the stages, for Graphviz.")
def command(
    recipe_name: str,
    overrides: tuple[str, ...],
    folders: Folders,
    show_stages: bool,
    calibrate: bool,
    as_json: bool,
    as_dot: bool,
) -> None:
    """Show RECIPE's stages: what is done, what is left, and about how long that takes. Runs nothing."""
    from harness.config import load as recipe
    from harness.matrix import expand as matrix
    from harness.runner.executor import unfinished
    from writers.errors import UserError

    if calibrate and as_dot:
        raise UserError(
            "--calibrate has no effect with --dot, which shows no times.", "Drop one of them."
        )
    plan = matrix.expand(recipe.read(recipe_name, overrides))
    left = unfinished(plan, folders)
    states = states_of(plan, folders, left)
    if calibrate:
        _calibrate(
            {stage.key: stage for stage in plan.stages if states[stage.key] not in OVER}, folders
        )
    if as_json:
        print_json(plan, states, folders)
        return
    if as_dot:
        click.echo(_dot(plan, states))
        return
    _print_tables(plan, states, show_stages)
    _print_estimate(plan, states, folders)
    for line in missing_data(plan, folders, left).values():
        click.secho(line, fg="yellow", err=True)


def print_json(plan: "Matrix", states: "dict[str, State]", folders: Folders) -> None:
    """The stages for a program: {"recipe", "num_stages", "num_done", "estimate", "kinds", "stages": [...]}."""
    click.echo(json.dumps(_as_json(plan, states, folders), indent=1))


def missing_data(plan: "Matrix", folders: Folders, left: "dict[str, Stage]") -> dict[str, str]:
    """Label -> a line, for each dataset that is still to be written and whose images are not there."""
    from harness.config import raw_paths as raw

    to_write = {stage.axes["dataset"] for stage in left.values() if stage.kind == "write"}
    return raw.missing(plan.recipe, folders.raw, to_write)


def states_of(plan: "Matrix", folders: Folders, left: "dict[str, Stage]") -> "dict[str, State]":
    """Key -> done, running, failed, left, or skipped: its model is not on the shortlist. `left` is what
    `executor.unfinished` gave."""
    from harness.runner import shortlist, stage_state

    kinds = {stage.kind for stage in plan.stages}
    skipped = shortlist.skipped(plan.stages, folders.runs)
    with_result = stage_state.with_result(folders.runs, kinds) if skipped else set()
    begun = stage_state.with_folder(folders.runs, kinds)

    def of(stage: "Stage") -> "State":
        if stage.key in skipped and stage.key not in with_result:
            return "skipped"
        if stage.key not in left:
            return "done"
        return (
            stage_state.state(stage.spec, stage.folder(folders.runs), folders.data)
            if stage.key in begun
            else "left"
        )

    return {stage.key: of(stage) for stage in plan.stages}


def _as_json(plan: "Matrix", states: "dict[str, State]", folders: Folders) -> dict[str, Any]:
    return {
        "recipe": plan.recipe.name,
        "num_stages": len(plan.stages),
        "num_done": list(states.values()).count("done"),
        "estimate": asdict(_estimate(plan, states, folders)),
        "kinds": {kind: dict(counts) for kind, counts in _counts(plan, states).items()},
        "stages": [
            {
                "key": stage.key,
                "kind": stage.kind,
                "name": stage.name,
                "axes": stage.axes,
                "state": states[stage.key],
                "needs": {role: need.key for role, need in stage.needs.items()},
                "only_if": stage.gated_by.key if stage.gated_by else None,
            }
            for stage in plan.stages
        ],
    }


def _estimate(plan: "Matrix", states: "dict[str, State]", folders: Folders) -> "Estimate":
    from harness.estimate import calibration
    from harness.estimate.estimate import estimate
    from writers.errors import UserError

    known = None
    if (
        folders.runs / calibration.FILE_NAME
    ).exists():  # which device this is takes the driver's tool a moment to say
        try:
            known = calibration.read(folders.runs, _machine(folders)[0])
        except UserError as error:
            click.secho(str(error), fg="yellow", err=True)
    return estimate(
        {stage.key: stage for stage in plan.stages if states[stage.key] not in OVER},
        folders.runs,
        known,
    )


def _machine(folders: Folders) -> "tuple[Machine, str, int]":
    """What a stage of `harness run` would compute on: in words, for torch, and with how many CPU threads."""
    from harness.estimate.calibration import Machine
    from harness.runner.launcher import LauncherSettings
    from harness.runner.launchers.local import slots
    from harness.system import environment

    slot = slots(LauncherSettings(folders))[0]
    name = (
        environment.gpu_names()[0]
        if slot.gpu
        else f"{environment.cpu_model()}, threads: {slot.num_threads}"
    )
    return (
        Machine(name, environment.versions()["torch"] or "none"),
        "cuda:0" if slot.gpu else "cpu",
        slot.num_threads,
    )


def _calibrate(left: "dict[str, Stage]", folders: Folders) -> None:
    """Time what is not known of the stages that are left, and keep it at once: an interruption loses one measurement."""
    from harness.cli import console
    from harness.estimate import calibration
    from harness.estimate.estimate import unmeasured
    from writers.errors import UserError

    machine, device, num_threads = _machine(folders)
    try:
        known = calibration.read(folders.runs, machine)
    except UserError as error:
        click.secho(str(error), fg="yellow", err=True)
        known = calibration.Calibration(machine, {})
    steps = unmeasured(left, folders.runs, known)
    terminal = console.err()
    terminal.print(f"{len(steps)} kinds of steps to time on {machine}", markup=False)
    if not steps:
        return
    from harness.estimate.calibrate import measure  # imports torch

    with terminal.status("") as status:
        measured = measure(steps, folders, device=device, num_threads=num_threads)
        for number, step in enumerate(steps, start=1):
            what = calibration.in_words(step)
            status.update(f"{number} of {len(steps)}: {what}")
            _, found = next(measured)
            if isinstance(found, float):
                calibration.add(folders.runs, machine, step, found)
                terminal.print(f"  {1000 * found:8.1f} ms  {what}", markup=False, soft_wrap=True)
            else:
                terminal.print(f"     unknown  {what}: {found}", markup=False, soft_wrap=True)


def _print_estimate(plan: "Matrix", states: "dict[str, State]", folders: Folders) -> None:
    num_left = sum(state not in OVER for state in states.values())
    if not num_left:
        return
    found = _estimate(plan, states, folders)
    of_unknown = f" and {found.num_unknown} stages of unknown length" if found.num_unknown else ""
    time = (
        "unknown: nothing like it has run yet"
        if found.num_unknown == num_left
        else f"about {found.hours:.2g} h one after another{of_unknown}"
    )
    of_unknown = (
        f" and {found.num_unknown_disk} betons or models of unknown size"
        if found.num_unknown_disk
        else ""
    )
    click.echo(f"left: {time}; disk: about {found.disk_bytes / 1e9:.2g} GB{of_unknown}")
    if found.calibrated_on:
        click.echo(
            f"calibrated: {found.calibrated_hours:.2g} h of that are {found.num_calibrated} stages reckoned from a few "
            f"steps on noise, without loading images, on {found.calibrated_on}"
        )


def _dot(plan: "Matrix", states: "dict[str, State]") -> str:
    """In Graphviz's language: a box a stage, coloured by its state, an arrow to each stage that needs it."""
    boxes = [
        f'  "{stage.key}" [label={json.dumps(stage.name)}, fillcolor={COLOURS[states[stage.key]]}];'
        for stage in plan.stages
    ]
    arrows = [
        f'  "{need}" -> "{stage.key}";'
        for stage in plan.stages
        for need in sorted({need.key for need in stage.waits_for})
    ]
    return "\n".join(
        [
            f"digraph {plan.recipe.name} {{",
            "  rankdir=LR;",
            "  node [shape=box, style=filled];",
            *boxes,
            *arrows,
            "}",
        ]
    )


def _counts(plan: "Matrix", states: "dict[str, State]") -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for stage in plan.stages:
        counts.setdefault(stage.kind, Counter())[states[stage.key]] += 1
    return counts


def _print_tables(plan: "Matrix", states: "dict[str, State]", show_stages: bool) -> None:
    from rich.table import Table

    from harness.cli import console

    terminal = console.out()
    recipe = plan.recipe
    terminal.print(f"[bold]{recipe.name}[/bold]  {recipe.question}")
    axes: dict[str, list[str]] = {}
    if recipe.source is not None:
        axes = {
            "subsets": [subset.name for subset in recipe.subsets],
            "archs": list(recipe.archs),
            **({"variants": list(recipe.variants)} if recipe.variants else {}),
            "eps": [f"{eps:g}" for eps in recipe.eps],
        }
    axes |= {"models": [model.name for model in recipe.models]} if recipe.models else {}
    axes |= {
        "seeds": [str(seed) for seed in recipe.seeds],
        "targets": [target.label for target in recipe.targets],
        "methods": list(recipe.methods),
    }
    if recipe.shortlist is not None:
        asked = recipe.shortlist
        axes["shortlist"] = [
            f"{', '.join(asked.methods)}: for the best {asked.best} by {asked.by} only"
        ]
    axes |= (
        {"scores": ["all"] if recipe.scores == "all" else list(recipe.scores)}
        if recipe.scores
        else {}
    )
    for axis, values in axes.items():
        terminal.print(f"  {axis:8} {len(values):3}  {', '.join(map(str, values))}", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("stages")
    for column in ("all", *STATES):
        table.add_column(column, justify="right")
    total: Counter[str] = Counter()
    for kind, counts in _counts(plan, states).items():
        total.update(counts)
        table.add_row(kind, *_row(counts))
    table.add_row("total", *_row(total), style="bold")
    terminal.print(table)
    if show_stages:
        for stage in plan.stages:
            terminal.print(
                f"{states[stage.key]:8} {stage.key}  {stage.name}", markup=False, soft_wrap=True
            )


def _row(counts: Counter[str]) -> list[str]:
    return [str(counts.total()), *(str(counts[state] or "") for state in STATES)]
