"""Run the unfinished stages of a recipe, then write its report."""

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from harness.cli.number_types import FloatType, IntType
from harness.cli.options import folder_options, recipe_argument
from harness.cli.path_types import check_writable
from harness.system.folders import Folders, user_cache
from writers.text_names import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage
    from harness.runner.executor import Event, Run

STOP_GRACE_S = 20.0  # time for running stages to save their state after Ctrl-C, in seconds
LOCAL = "local"  # the launcher on this machine
ALLOW_MISSING = "--allow-missing"


@click.command(short_help="Run the unfinished stages of a recipe, then write its report.")
@recipe_argument
@folder_options
@click.option(
    "--launcher",
    default=LOCAL,
    show_default=True,
    metavar="NAME",
    help="How stages are started; see harness ls launchers.",
)
@click.option(
    "--jobs",
    type=IntType(min=1),
    metavar="N",
    help="Number of stages that run at once. Default: as many as the machine supports.",
)
@click.option(
    "--jobs-per-gpu",
    type=IntType(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Largest number of stages on one GPU. The first stage of each kind runs alone; its memory "
    "and time bound the rest.",
)
@click.option(
    "--threads",
    "num_threads",
    type=IntType(min=1),
    metavar="N",
    help="CPU threads per stage. Default: the cores divided evenly.",
)
@click.option(
    "--launcher-option",
    "launcher_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the launcher, such as partition=gpu for slurm or address=HOST:PORT for ray; "
    "may be repeated. See harness ls launchers.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: GPUs if there are any; CPUs with --launcher slurm, which does not report GPUs.",
)
@click.option(
    "--gpus-per-stage",
    type=IntType(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of GPUs (on a CPU: processes) that share each pretraining.",
)
@click.option(
    "--checkpoint-minutes",
    type=FloatType(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="M",
    help="Minutes of wall time between two checkpoints of a training.",
)
@click.option(
    "--trace",
    "trace_steps",
    type=IntType(min=0),
    default=0,
    metavar="N",
    help="Trace N steps of each pretraining to trace.json in its folder, for ui.perfetto.dev.",
)
@click.option(
    "--tracker",
    metavar="NAME",
    help="Also send curves and results to tensorboard, wandb or mlflow.",
)
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Run stages again whose images or weights have changed, without confirmation. Old "
    "results are kept.",
)
@click.option(
    ALLOW_MISSING,
    is_flag=True,
    help="Start although inputs cannot be read on this machine: for machines of a cluster that "
    "have them under these paths, or to run the stages that do not need them.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="At the end print JSON: number of stages, failed stages with reasons, and the report.",
)
@click.option("--stages-package", default="harness.stages", hidden=True)
def command(
    recipe_name: str,
    overrides: tuple[str, ...],
    folders: Folders,
    launcher: str,
    jobs: int | None,
    jobs_per_gpu: int,
    num_threads: int | None,
    launcher_options: tuple[str, ...],
    device: str,
    gpus_per_stage: int,
    checkpoint_minutes: float,
    trace_steps: int,
    as_json: bool,
    tracker: str | None,
    accept_changes: bool,
    allow_missing: bool,
    stages_package: str,
) -> None:
    """Run the unfinished stages of RECIPE, then write its report.

    RECIPE is a file, or a name in recipes/. Nothing is started if inputs are missing. After an
    interruption the same command resumes. If a stage fails, the others continue; the next run tries
    it again.

    \b
    Examples:
    harness run demo
    harness run robust_l2 --set seeds=[0] --jobs-per-gpu 4
    """
    from contextlib import nullcontext

    from harness.runner import fork_server

    # Start the fork server first, so that it imports modules for the workers while this process
    # reads the recipe.
    forks_here = launcher == LOCAL and fork_server.is_supported()
    server = fork_server.ForkServer() if forks_here else None
    with server or nullcontext():
        _run(
            recipe_name,
            overrides,
            folders,
            launcher,
            launcher_options,
            accept_changes,
            allow_missing,
            as_json=as_json,
            tracker=tracker,
            num_jobs=jobs,
            device=device,
            stages_package=stages_package,
            checkpoint_minutes=checkpoint_minutes,
            trace_steps=trace_steps,
            num_threads=num_threads,
            jobs_per_gpu=jobs_per_gpu,
            gpus_per_stage=gpus_per_stage,
            fork_server=server,
        )


def _run(
    recipe_name: str,
    overrides: tuple[str, ...],
    folders: Folders,
    launcher: str,
    launcher_options: tuple[str, ...],
    accept_changes: bool,
    allow_missing: bool,
    as_json: bool = False,
    tracker: str | None = None,
    **settings: Any,
) -> None:
    """Run the recipe; `settings` are fields of LauncherSettings."""
    import importlib
    import shlex
    import signal
    import sys
    import threading
    import time

    from harness.cli import console, live_table
    from harness.cli.commands import _inputs
    from harness.config.load import read
    from harness.matrix.left_out import left_out
    from harness.report import ANSWER_FILE
    from harness.runner import cancel, recipe_origin
    from harness.runner.executor import Cancelled, Run, begin, unfinished
    from harness.runner.launcher import LauncherSettings, parse_options
    from harness.runner.tracker import check_tracker
    from writers import names
    from writers.errors import UserError

    started = time.monotonic()
    recipe = read(recipe_name, overrides, user_cache())
    module = names.find("harness.runner.launchers", launcher, "launcher")
    options = parse_options(module.Options, launcher, launcher_options)
    if tracker is not None:
        check_tracker(tracker)
    planned = _inputs.plan(recipe, folders)
    plan = planned.matrix
    pending = unfinished(plan, folders)
    _check_inputs(plan, folders, pending, allow_missing=allow_missing)
    if launcher == LOCAL and any(stage.kind == "write" for stage in pending.values()):
        check_writable(folders.data)  # elsewhere, other machines write the betons
    launcher_settings = LauncherSettings(folders, began_at=begin(folders), **settings)
    if launcher_settings.gpus_per_stage > 1 and not module.Options.USES_GPUS_TOGETHER:
        raise UserError(
            f"--gpus-per-stage has no effect with --launcher {launcher}.",
            "Use --launcher local on a machine with those GPUs, or run torchrun -m harness.worker "
            "STAGE_DIR.",
        )
    recipe_origin.claim(recipe_name, overrides, recipe.name, folders.runs)
    _inputs.confirm(planned, folders, is_accepted=accept_changes)
    opened = module.open(launcher_settings, options)
    # Schedulers send SIGTERM; handle it like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    terminal = console.err()
    # Importing the report takes a second: do it while the last stage runs and other slots are idle.
    import_report = threading.Thread(
        target=importlib.import_module, args=("harness.report.render.page",), daemon=True
    )
    with opened, _tracking(tracker, planned.matrix, folders) as on_event:
        run = Run(
            plan,
            folders,
            opened,
            is_cancelled=cancel.Watch(cancel.file_of(folders.runs, recipe.name)),
            on_idle_slot=import_report.start,
            on_event=on_event,
        )
        num_done = len(plan.stages) - len(run.pending)
        terminal.print(
            f"{recipe.name}: {counted(len(plan.stages), 'stage')}, {num_done} done, "
            f"{len(run.pending)} to run" + (f", {opened.num_slots} at once" if run.pending else "")
        )
        for pairs in left_out(plan.recipe):
            click.echo(console.hanging("  ", str(pairs)), err=True)
        try:
            live_table.follow(run, terminal)
        except (KeyboardInterrupt, Cancelled):
            click.echo(_stopping(len(run.running)), err=True)
            try:
                run.stop(STOP_GRACE_S)
            finally:
                click.echo(
                    f"Stopped at {len(run.finished)} of {counted(len(plan.stages), 'stage')}. "
                    f"Resume with:\n  harness {shlex.join(sys.argv[1:])}",
                    err=True,
                )
            sys.exit(130)
        except Exception:  # an error of this process: let running stages save their state
            run.stop(STOP_GRACE_S)
            raise
    if run.failed:
        _print_failures(run)  # before the report, which may fail too
    report = _report(plan, folders)
    if (answer := report.with_name(ANSWER_FILE)).exists():
        click.echo(answer.read_text().rstrip(), err=True)
    if num_done < len(plan.stages):
        took = console.seconds(time.monotonic() - started)
        num_finished = len(run.finished) - num_done
        terminal.print(f"{counted(num_finished, 'stage')} finished in {took}.", soft_wrap=True)
    if as_json:
        summary = {
            "recipe": recipe.name,
            "num_stages": len(plan.stages),
            "num_not_run": len(run.not_run),
            "failed": {run.pending[key].name: reason for key, reason in run.failed.items()},
            "report": str(report),
        }
        click.echo(json.dumps(summary, indent=1))
    else:
        click.echo(f"Report: {report}")
    if run.failed:
        sys.exit(1)


def _stopping(num_running: int) -> str:
    """Format the message after the first Ctrl-C."""
    if not num_running:
        return "Stopping: no stage runs."
    has = counted(num_running, "running stage", ("has", "have"))
    its, it = ("its", "it") if num_running == 1 else ("their", "them")
    save = f"{STOP_GRACE_S:.0f} s to save {its} state"
    return f"Stopping: {has} {save}. Press Ctrl-C again to kill {it}."


@contextmanager
def _tracking(
    name: str | None, plan: "Matrix", folders: Folders
) -> "Iterator[Callable[[Event], None]]":
    """Open a tracker, and yield the function that receives the events of the run."""
    if name is None:
        yield lambda event: None
        return
    from harness.runner.tracker import Tracking, open_tracker

    folder = folders.runs / "tracking" / name / plan.recipe.name
    opened = open_tracker(name, folder, plan.recipe.name)
    tracking = Tracking(
        opened, folder, folders.runs, lambda text: click.secho(text, fg="yellow", err=True)
    )
    try:
        tracking.catch_up(plan.stages)
        yield tracking
    finally:
        tracking.close()


def _report(plan: "Matrix", folders: Folders) -> "Path":
    """Write the report if a result changed; return its page.

    With ten thousand finished stages, writing takes longer than everything else.
    """
    from harness.cli.commands.report import write_report
    from harness.report.render.folder import MADE_FROM, formats_of
    from harness.runner import provenance

    folder = folders.runs / "reports" / plan.recipe.name
    page, made_from = folder / "index.html", folder / MADE_FROM
    digest = provenance.of_report(plan, folders.runs)
    if not (page.exists() and made_from.exists() and made_from.read_text() == digest):
        page = write_report(plan, folders, formats_of(folder))
        made_from.write_text(digest)
    return page


def _check_inputs(
    plan: "Matrix", folders: Folders, pending: "dict[str, Stage]", *, allow_missing: bool
) -> None:
    """Print the inputs of pending stages that cannot be read.

    Raises:
        UserError: there are such inputs, and `allow_missing` is False.
    """
    from harness.cli.commands.plan import missing_inputs
    from writers.errors import UserError

    missing = missing_inputs(plan, folders, pending)
    if missing and not allow_missing:
        heading = f"{counted(len(missing), 'input')} of {plan.recipe.name} cannot be read:"
        raise UserError(
            "\n".join([heading, *(f"  {item}" for item in missing)]),
            "Put them there, correct the paths, or set --raw-dir. "
            f"{ALLOW_MISSING} starts the run without them; only the stages that need them fail.",
        )
    for item in missing:
        click.secho(str(item), fg="yellow", err=True)


def _print_failures(run: "Run") -> None:
    """Print the failed stages with reason, fix and error file."""
    from textwrap import indent

    from harness.runner import stage_state
    from writers.text_names import printable, printable_lines

    click.secho(
        f"{counted(len(run.failed), 'stage')} failed, {len(run.not_run)} that need them did not "
        "run:",
        fg="red",
        err=True,
    )
    shown: set[str] = set()
    for key, message in run.failed.items():
        stage = run.pending[key]
        folder = stage.folder(run.folders.runs)
        click.secho(f"  {stage.name}: {printable(message)}", fg="red", err=True)
        # Hundreds of stages may fail for the same reason.
        if (hint := stage_state.error_hint(folder)) and hint not in shown:
            shown.add(hint)
            click.secho(indent(printable_lines(hint), "    "), fg="red", err=True)
        # The error file is missing if it could not be written, for example on a full disk.
        if (error := folder / stage_state.ERROR_FILE).exists():
            click.secho(f"    {error}", fg="red", err=True)
    click.secho("Run the same command again to retry them.", fg="red", err=True)
