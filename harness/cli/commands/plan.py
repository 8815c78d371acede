"""Show the stages of a recipe and their state."""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import folder_options, recipe_argument
from harness.system.folders import Folders
from writers.text_names import printable

if TYPE_CHECKING:
    from harness.estimate.calibration import Machine
    from harness.estimate.estimate import Estimate
    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage
    from harness.runner.inputs import Plan
    from harness.runner.stage_state import State

STATES: "tuple[State, ...]" = ("done", "running", "failed", "left", "skipped")
# States of stages that need no more work.
FINISHED = ("done", "skipped")
COLORS = {
    "done": "palegreen",
    "running": "lightskyblue",
    "failed": "salmon",
    "left": "white",
    "skipped": "lightgrey",
}


@click.command(short_help="Show the stages of a recipe and their state. Runs nothing.")
@recipe_argument
@folder_options
@click.option("--stages", "show_stages", is_flag=True, help="Also list every stage.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="First time a few steps, on noise, of each kind of work without a measured time. The "
    "times are saved in calibration.json in the runs folder, for this device.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: every stage with its key, state and needs.",
)
@click.option("--dot", "as_dot", is_flag=True, help="Print the graph of stages for Graphviz.")
def command(
    recipe_name: str,
    overrides: tuple[str, ...],
    folders: Folders,
    show_stages: bool,
    calibrate: bool,
    as_json: bool,
    as_dot: bool,
) -> None:
    """Show the stages of RECIPE, what is done, and an estimate of the rest. Runs nothing.

    Example: harness plan robust_l2 --set seeds=[0] --calibrate
    """
    from harness.cli.commands import _inputs
    from harness.config.load import read
    from harness.runner.executor import unfinished
    from writers.errors import UserError

    if calibrate and as_dot:
        raise UserError(
            "--calibrate has no effect with --dot, which shows no times.", "Remove one of them."
        )
    planned = _inputs.plan(read(recipe_name, overrides), folders)
    plan = planned.matrix
    left = unfinished(plan, folders)
    states = states_of(plan, folders, left)
    if calibrate:
        _calibrate(
            {stage.key: stage for stage in plan.stages if states[stage.key] not in FINISHED},
            folders,
        )
    if as_json:
        print_json(planned, states, folders)
        return
    if as_dot:
        click.echo(_dot(plan, states))
        return
    _print_tables(plan, states, show_stages)
    _print_estimate(plan, states, folders)
    _print_outdated(plan, left, folders)
    _inputs.print_lines(planned, folders)
    for line in missing_data(plan, folders, left).values():
        click.secho(line, fg="yellow", err=True)


def print_json(planned: "Plan", states: "dict[str, State]", folders: Folders) -> None:
    """Print the plan as JSON.

    Fields: recipe, num_stages, num_done, changed_inputs, missing_inputs, estimate, outdated, kinds,
    stages.
    """
    click.echo(json.dumps(_as_json(planned, states, folders), indent=1))


def missing_data(plan: "Matrix", folders: Folders, left: "dict[str, Stage]") -> dict[str, str]:
    """Describe each dataset that has yet to be written and whose images are missing.

    Returns:
        Label of the dataset -> one line.
    """
    from harness.config import raw_paths

    to_write = {
        stage.axes["dataset"]
        for stage in left.values()
        if stage.spec.input_settings and "dataset" in stage.axes
    }
    return raw_paths.missing(plan.recipe, folders.raw, to_write)


def states_of(plan: "Matrix", folders: Folders, left: "dict[str, Stage]") -> "dict[str, State]":
    """Return the state of each stage: done, running, failed, left or skipped by the shortlist.

    Args:
        plan: Stages of the recipe.
        folders: Folders of the runs.
        left: Unfinished stages, from `executor.unfinished`.

    Returns:
        Key of the stage -> state.
    """
    from harness.runner import shortlist, stage_state

    kinds = {stage.kind for stage in plan.stages}
    skipped = shortlist.skipped(plan.stages, folders.runs)
    started = stage_state.with_folder(folders.runs, kinds)

    def state_of(stage: "Stage") -> "State":
        if stage.key in skipped and not (
            stage.key in started and stage_state.has_result(stage.folder(folders.runs))
        ):
            return "skipped"
        if stage.key not in left:
            return "done"
        return (
            stage_state.state(stage.spec, stage.folder(folders.runs), folders.data)
            if stage.key in started
            else "left"
        )

    return {stage.key: state_of(stage) for stage in plan.stages}


def _as_json(planned: "Plan", states: "dict[str, State]", folders: Folders) -> dict[str, Any]:
    plan = planned.matrix
    return {
        "recipe": plan.recipe.name,
        "num_stages": len(plan.stages),
        "num_done": list(states.values()).count("done"),
        "changed_inputs": [
            {"input": change.input.label, "num_stages": change.num_stages}
            for change in planned.changes
        ],
        "missing_inputs": [item.label for item in planned.missing],
        "estimate": asdict(_estimate(plan, states, folders)),
        "outdated": _count_outdated(plan, states, folders),
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
    # Naming the device takes the driver's tool a moment: skip it without a calibration.
    if (folders.runs / calibration.FILE_NAME).exists():
        try:
            known = calibration.read(folders.runs, _machine(folders)[0])
        except UserError as error:
            click.secho(str(error), fg="yellow", err=True)
    return estimate(
        {stage.key: stage for stage in plan.stages if states[stage.key] not in FINISHED},
        folders.runs,
        known,
    )


def _machine(folders: Folders) -> "tuple[Machine, str, int]":
    """Return what a stage of `harness run` computes on.

    Returns:
        Machine, torch device, and number of CPU threads.
    """
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
    """Time the unknown steps of the remaining stages.

    Each time is saved at once, so that an interruption loses only one.
    """
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
    terminal.print(f"timing {len(steps)} kinds of steps on {machine}", markup=False)
    if not steps:
        return
    from harness.estimate.calibrate import measure  # imports torch

    with terminal.status("") as status:
        measured = measure(steps, folders, device=device, num_threads=num_threads)
        for number, step in enumerate(steps, start=1):
            description = calibration.describe(step)
            status.update(f"{number} of {len(steps)}: {description}")
            _, step_s = next(measured)
            if isinstance(step_s, float):
                calibration.add(folders.runs, machine, step, step_s)
                line = f"  {1000 * step_s:8.1f} ms  {description}"
            else:
                line = f"     unknown  {description}: {step_s}"
            terminal.print(line, markup=False, soft_wrap=True)


def _count_outdated(plan: "Matrix", states: "dict[str, State]", folders: Folders) -> dict[str, int]:
    """Number of finished stages on disk that are outdated, by reason."""
    from harness.runner import outdated

    pending = {stage.key: stage for stage in plan.stages if states[stage.key] not in FINISHED}
    return dict(Counter(old.reason for old in outdated.find(plan, folders.runs, pending)))


def _print_outdated(plan: "Matrix", pending: "dict[str, Stage]", folders: Folders) -> None:
    """Print one line if finished stages are outdated, and one for each reason."""
    from harness.runner import outdated

    found = list(outdated.find(plan, folders.runs, pending))
    if not found:
        return
    reasons = Counter((old.successor.kind, old.reason, old.details) for old in found)
    click.echo(f"outdated: {len(found)} finished stages, which will be computed again")
    for (kind, reason, details), count in sorted(reasons.items()):
        click.echo(f"  {count} {kind}: {reason} ({details})")


def _print_estimate(plan: "Matrix", states: "dict[str, State]", folders: Folders) -> None:
    from harness.cli import console

    num_left = sum(state not in FINISHED for state in states.values())
    if not num_left:
        return
    estimate = _estimate(plan, states, folders)
    and_unknown = (
        f" and {estimate.num_unknown} stages of unknown length" if estimate.num_unknown else ""
    )
    time = (
        "unknown, because no similar stage has run yet"
        if estimate.num_unknown == num_left
        else f"about {console.seconds(3600 * estimate.hours)} one after another{and_unknown}"
    )
    and_unknown = (
        f" and {estimate.num_unknown_disk} betons or models of unknown size"
        if estimate.num_unknown_disk
        else ""
    )
    disk = (
        f"unknown for {estimate.num_unknown_disk} betons or models"
        if estimate.num_unknown_disk and not estimate.disk_bytes
        else f"about {console.size(estimate.disk_bytes)}{and_unknown}"
    )
    click.echo(f"left: {time}; disk: {disk}")
    if estimate.calibrated_on:
        click.echo(
            f"calibrated: {console.seconds(3600 * estimate.calibrated_hours)} of that are "
            f"{estimate.num_calibrated} "
            "stages estimated from a few steps on noise, without loading images, on "
            f"{estimate.calibrated_on}"
        )


def _dot(plan: "Matrix", states: "dict[str, State]") -> str:
    """Draw a box per stage, colored by state, with arrows to the stages that need it."""
    boxes = [
        f'  "{stage.key}" [label={json.dumps(stage.name)}, fillcolor={COLORS[states[stage.key]]}];'
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
    from rich.text import Text

    from harness.cli import console

    terminal = console.out()
    recipe = plan.recipe
    terminal.print(Text.assemble((recipe.name, "bold"), f"  {printable(recipe.question)}"))
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
        shortlist = recipe.shortlist
        axes["shortlist"] = [
            f"{', '.join(shortlist.methods)}: only for the best {shortlist.best} by {shortlist.by}"
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
