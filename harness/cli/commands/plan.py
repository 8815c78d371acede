"""Show the stages of a recipe and their state."""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from harness.cli.commands._plan_estimate import (
    predictor,
    print_estimate,
    saved_calibration,
    time_steps,
)
from harness.cli.commands._plan_selections import print_selections
from harness.cli.commands._plan_tables import FINISHED, counts_by_kind, dot, print_tables
from harness.cli.options import folder_options, recipe_argument
from harness.system.folders import Folders, user_cache

if TYPE_CHECKING:
    from harness.config.missing_inputs import MissingInput
    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage
    from harness.runner.inputs import Plan
    from harness.runner.stage_state import State


@click.command(short_help="Show the stages of a recipe and their state. Runs nothing.")
@recipe_argument
@folder_options
@click.option("--stages", "show_stages", is_flag=True, help="Also list every stage.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="First time a few steps of each kind of work that has no measured time, on noise. The "
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
    from harness.cli import console
    from harness.cli.commands import _inputs
    from harness.config.load import read
    from harness.runner.executor import unfinished
    from writers.errors import UserError

    if calibrate and as_dot:
        raise UserError(
            "--calibrate has no effect with --dot, which shows no times.", "Remove one of them."
        )
    if as_json and as_dot:
        raise UserError("--json and --dot exclude each other.", "Remove one of them.")
    planned = _inputs.plan(read(recipe_name, overrides, user_cache()), folders)
    plan = planned.matrix
    left = unfinished(plan, folders)
    states = states_of(plan, folders, left)
    if calibrate:
        time_steps(_unfinished(plan, states), folders)
    if as_json:
        print_json(planned, states, left, folders)
        return
    if as_dot:
        click.echo(dot(plan, states))
        return
    print_tables(plan, states, show_stages)
    to_run = _unfinished(plan, states)
    known = saved_calibration(folders) if to_run else None
    predict = predictor(folders) if to_run else None
    print_selections(plan, to_run, folders, known, predict)
    print_estimate(to_run, folders, known, predict)
    _print_outdated(plan, left, folders)
    _inputs.warn_of_namesake(recipe_name, overrides, plan.recipe.name, folders)
    _inputs.print_lines(planned, folders)
    for missing in missing_inputs(plan, folders, left):
        click.secho(console.hanging("missing: ", str(missing)), fg="yellow", err=True)


def print_json(
    planned: "Plan", states: "dict[str, State]", left: "dict[str, Stage]", folders: Folders
) -> None:
    """Print the plan as JSON.

    Fields: recipe, num_stages, num_done, changed_inputs, missing_inputs, left_out, estimate,
    outdated, kinds, stages.
    """
    click.echo(json.dumps(_as_json(planned, states, left, folders), indent=1))


def missing_inputs(
    plan: "Matrix", folders: Folders, left: "dict[str, Stage]"
) -> "list[MissingInput]":
    """Find the inputs that unfinished stages read and that cannot be read on this machine.

    Outputs of other stages do not count as inputs.
    """
    from harness.config import missing_inputs

    reading = [stage for stage in left.values() if stage.spec.input_settings]
    names = {
        axis: {stage.axes[axis] for stage in reading if axis in stage.axes}
        for axis in ("dataset", "model")
    }
    return missing_inputs.find(plan.recipe, folders.raw, names["dataset"], names["model"])


def states_of(plan: "Matrix", folders: Folders, left: "dict[str, Stage]") -> "dict[str, State]":
    """Return the state of each stage: done, running, failed, left to run, or skipped.

    A stage is skipped if a shortlist did not select its model.

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


def _as_json(
    planned: "Plan", states: "dict[str, State]", left: "dict[str, Stage]", folders: Folders
) -> dict[str, Any]:
    from harness.estimate.estimate import estimate
    from harness.matrix.left_out import left_out

    plan = planned.matrix
    to_run = _unfinished(plan, states)
    missing = missing_inputs(plan, folders, left)
    return {
        "recipe": plan.recipe.name,
        "num_stages": len(plan.stages),
        "num_done": list(states.values()).count("done"),
        "changed_inputs": [
            {"input": change.input.label, "num_stages": change.num_stages}
            for change in planned.changes
        ],
        "missing_inputs": list(dict.fromkeys(item.label for item in (*planned.missing, *missing))),
        "left_out": [asdict(pairs) for pairs in left_out(plan.recipe)],
        "estimate": asdict(
            estimate(to_run, folders.runs, saved_calibration(folders), predictor(folders))
        ),
        "outdated": _count_outdated(plan, to_run, folders),
        "kinds": {kind: dict(counts) for kind, counts in counts_by_kind(plan, states).items()},
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


def _unfinished(plan: "Matrix", states: "dict[str, State]") -> "dict[str, Stage]":
    """Return the stages that need work, by key. Stages that the shortlist skips need none."""
    return {stage.key: stage for stage in plan.stages if states[stage.key] not in FINISHED}


def _count_outdated(
    plan: "Matrix", pending: "dict[str, Stage]", folders: Folders
) -> dict[str, int]:
    """Number of finished stages on disk that are outdated (see `runner.outdated`), by reason."""
    from harness.runner import outdated

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
