"""Estimated time and disk space of a plan, for `harness plan`."""

from typing import TYPE_CHECKING

import click

from harness.system.folders import Folders
from writers.text_names import counted

if TYPE_CHECKING:
    from harness.estimate.calibration import Calibration, Machine
    from harness.estimate.prediction import Predictor
    from harness.matrix.stage import Stage


def saved_calibration(folders: Folders) -> "Calibration | None":
    """Return the times of steps on this machine; None without a readable calibration.json."""
    from harness.estimate import calibration
    from writers.errors import UserError

    # nvidia-smi takes a moment to name the device. Do not call it if there is no calibration.
    if not (folders.runs / calibration.FILE_NAME).exists():
        return None
    try:
        return calibration.read(folders.runs, _machine(folders)[0])
    except UserError as error:
        click.secho(str(error), fg="yellow", err=True)
        return None


def predictor(folders: Folders) -> "Predictor":
    """Return a predictor of the time of stages on an H100, for all estimates of a plan."""
    from harness.estimate.prediction import Predictor
    from harness.estimate.workload import Workloads

    return Predictor(Workloads(folders.runs))


def work_time(hours: float, prefix: str = "") -> str:
    """Format the time that a device works: 4,572 GPU-hours, 0.4 GPU-hours, 15 GPU-seconds."""
    if hours >= 0.1:
        value, unit = hours, "hours"
    else:
        value, unit = (60 * hours, "minutes") if hours >= 1 / 60 else (3600 * hours, "seconds")
    return f"{value:,.0f} {prefix}{unit}" if value >= 10 else f"{value:.1f} {prefix}{unit}"


def _machine(folders: Folders) -> "tuple[Machine, str, int]":
    """Return the hardware that a stage of `harness run` uses.

    Returns:
        Machine, torch device, and number of CPU threads.
    """
    from harness.estimate.calibration import Machine
    from harness.runner.launcher import LauncherSettings
    from harness.runner.slots import make_slots
    from harness.system import environment

    slot = make_slots(LauncherSettings(folders))[0]
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


def time_steps(left: "dict[str, Stage]", folders: Folders) -> None:
    """Time the steps of unfinished stages for which no time is known yet.

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


def print_estimate(
    left: "dict[str, Stage]",
    folders: Folders,
    known: "Calibration | None",
    predict: "Predictor | None",
) -> None:
    """Print the time and disk space of the unfinished stages; nothing if all are finished.

    Args:
        left: Unfinished stages by key.
        folders: Folders of the runs.
        known: Times of steps on this machine; None if none were measured.
        predict: Predicts the time of other stages on an H100; None makes no predictions.
    """
    from harness.cli import console
    from harness.estimate.estimate import estimate as estimate_of

    if not left:
        return
    estimate = estimate_of(left, folders.runs, known, predict)
    and_unknown = (
        f" and {counted(estimate.num_unknown, 'stage')} without a measured time"
        if estimate.num_unknown
        else ""
    )
    time = (
        f"{counted(len(left), 'stage')} without a measured time, because no similar stage has run "
        "yet"
        if estimate.num_unknown == len(left)
        else f"about {console.seconds(3600 * estimate.hours)} one after another{and_unknown}"
    )
    and_unknown = (
        f" and {counted(estimate.num_unknown_disk, 'output')} of unknown size"
        if estimate.num_unknown_disk
        else ""
    )
    disk = (
        f"unknown for {counted(estimate.num_unknown_disk, 'output')}, betons and models"
        if estimate.num_unknown_disk and not estimate.disk_bytes
        else f"about {console.size(estimate.disk_bytes)}{and_unknown}"
    )
    click.echo(console.hanging("left: ", time))
    if estimate.predicted_for:
        are_some = estimate.num_predicted < estimate.num_unknown
        those = f"{estimate.num_predicted:,} of " if are_some else ""
        predicted = (
            f"about {work_time(estimate.predicted_gpu_hours, 'GPU-')} on one "
            f"{estimate.predicted_for} for {those}"
            f"{'this stage' if estimate.num_unknown == 1 else 'these stages'}, not measured"
        )
        click.echo(console.hanging("predicted: ", predicted))
    if estimate.disk_bytes or estimate.num_unknown_disk:
        click.echo(console.hanging("disk: ", disk))
    if estimate.calibrated_on:
        click.echo(
            f"calibrated: {console.seconds(3600 * estimate.calibrated_hours)} of that are "
            f"{counted(estimate.num_calibrated, 'stage')} "
            "estimated from a few steps on noise, without loading images, on "
            f"{estimate.calibrated_on}"
        )
