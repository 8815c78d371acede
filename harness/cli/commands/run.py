"""Run a recipe: all that is not done yet, to its report."""

from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import folder_options, recipe_argument
from harness.system.folders import Folders

if TYPE_CHECKING:
    from pathlib import Path

    from harness.matrix.expand import Matrix
    from harness.runner.executor import Run

STOP_GRACE_S = 20.0


@click.command(short_help="Run all of a recipe that is not done, then write its report.")
@recipe_argument
@folder_options
@click.option(
    "--launcher",
    default="local",
    show_default=True,
    metavar="NAME",
    help="Where stages run: see harness ls launchers.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stages side by side. Default: what the machine carries.",
)
@click.option(
    "--jobs-per-gpu",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Stages on one GPU, at most: as many as its memory and time allow, by what the first of each kind took.",
)
@click.option(
    "--threads",
    "num_threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads of a stage. Default: an even share of the cores.",
)
@click.option(
    "--address",
    metavar="HOST:PORT|auto",
    help="With --launcher ray: the cluster. Default: Ray on this machine.",
)
@click.option(
    "--slurm",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --launcher slurm: an option of sbatch, such as partition=gpu; may be given again.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: GPUs where there are any; with --launcher slurm CPUs, for it cannot be asked.",
)
@click.option(
    "--gpus-per-stage",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="GPUs that train each pretraining together (on a CPU: processes).",
)
@click.option(
    "--checkpoint-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="M",
    help="Wall-clock time between two checkpoints of a training.",
)
@click.option(
    "--trace",
    "trace_steps",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Trace N steps of each pretraining into its folder (trace.json), for ui.perfetto.dev.",
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
    address: str | None,
    slurm: tuple[str, ...],
    device: str,
    gpus_per_stage: int,
    checkpoint_minutes: float,
    trace_steps: int,
    stages_package: str,
) -> None:
    """Run all that RECIPE asks for and is not done yet; then write its report.

    Interrupt it as you like: the same command goes on from there. A stage that fails leaves the others running, and is
    tried again at the next run. RECIPE is a file, or a name in recipes/.
    """
    from contextlib import nullcontext

    from harness.runner import fork_server

    # First of all: while this process reads the recipe, that one loads what workers need.
    early = fork_server.ForkServer() if launcher == "local" and fork_server.is_possible() else None
    with early or nullcontext():
        _run(
            recipe_name,
            overrides,
            folders,
            launcher,
            _options(launcher, address, slurm),
            num_jobs=jobs,
            device=device,
            stages_package=stages_package,
            checkpoint_minutes=checkpoint_minutes,
            trace_steps=trace_steps,
            num_threads=num_threads,
            jobs_per_gpu=jobs_per_gpu,
            gpus_per_stage=gpus_per_stage,
            fork_server=early,
        )


def _run(
    recipe_name: str,
    overrides: tuple[str, ...],
    folders: Folders,
    launcher: str,
    options: dict[str, str],
    **asked_for: Any,
) -> None:
    """asked_for: the other fields of LauncherSettings."""
    import importlib
    import shlex
    import signal
    import sys
    import threading

    from harness.cli import console
    from harness.cli import live_table as display
    from harness.config import load as recipe
    from harness.matrix import expand as matrix
    from harness.runner import cancel
    from harness.runner.executor import Cancelled, Run, begin
    from harness.runner.launcher import LauncherSettings
    from writers import names
    from writers.errors import UserError

    asked = recipe.read(recipe_name, overrides)
    plan = matrix.expand(asked)
    _refuse_without_images(plan, folders)
    settings = LauncherSettings(folders, options=options, began_at=begin(folders), **asked_for)
    if settings.gpus_per_stage > 1 and launcher != "local":
        raise UserError(
            f"--gpus-per-stage has no effect with --launcher {launcher}.",
            "Use --launcher local on a machine with "
            "those GPUs, or start torchrun -m harness.worker STAGE_DIR yourself.",
        )
    opened = names.find("harness.runner.launchers", launcher, "launcher").open(settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended by a scheduler: as by Ctrl-C
    terminal = console.err()
    # What the report needs takes a second to import: beside the last stages, and not when all slots are idle.
    report_code = threading.Thread(
        target=importlib.import_module, args=("harness.report.render.page",), daemon=True
    )
    with opened:
        run = Run(
            plan,
            folders,
            opened,
            is_cancelled=cancel.Watch(cancel.file_of(folders.runs, asked.name)),
            at_the_last=report_code.start,
        )
        done = len(plan.stages) - len(run.to_do)
        terminal.print(
            f"{asked.name}: {len(plan.stages)} stages, {done} done, {len(run.to_do)} to run"
            + (f", {opened.num_slots} side by side" if run.to_do else "")
        )
        try:
            display.follow(run, terminal)
        except (KeyboardInterrupt, Cancelled):
            terminal.print(
                f"Stopping: {len(run.running)} running stages may save their state, up to "
                f"{STOP_GRACE_S:.0f} s. Ctrl-C again ends them at once."
            )
            try:
                run.stop(STOP_GRACE_S)
            finally:
                terminal.print(
                    f"Stopped at {len(run.finished)} of {len(plan.stages)} stages. Go on with:\n  "
                    f"harness {shlex.join(sys.argv[1:])}",
                    markup=False,
                    soft_wrap=True,
                )
            sys.exit(130)
        except Exception:  # ours, or a disk's: what runs is not to blame
            run.stop(STOP_GRACE_S)
            raise
    if run.failed:
        _tell_failures(run)  # before the report, which may fail itself
    click.echo(f"Report: {_report(plan, folders)}")
    if run.failed:
        sys.exit(1)


def _report(plan: "Matrix", folders: Folders) -> "Path":
    """The report's page, written unless nothing has changed: with ten thousand stages that takes longer than all the rest."""
    from harness.cli.commands.report import write_report
    from harness.runner import provenance

    folder = folders.runs / "reports" / plan.recipe.name
    page, made_from = folder / "index.html", folder / "made_from.sha256"
    digest = provenance.of_report(plan, folders.runs)
    if not (page.exists() and made_from.exists() and made_from.read_text() == digest):
        page = write_report(plan, folders)
        made_from.write_text(digest)
    return page


def _options(launcher: str, address: str | None, slurm: tuple[str, ...]) -> dict[str, str]:
    """What only one launcher knows. Raises UserError for what the chosen one does not."""
    from writers.errors import UserError

    for option, given, owner in (("--address", address, "ray"), ("--slurm", slurm, "slurm")):
        if given and launcher != owner:
            raise UserError(
                f"{option} has no effect with --launcher {launcher}.", f"Say --launcher {owner}."
            )
    for setting in slurm:
        if "=" not in setting:
            raise UserError(f"--slurm {setting}: say KEY=VALUE, such as --slurm partition=gpu.")
    return {"address": address} if address else dict(setting.split("=", 1) for setting in slurm)


def _refuse_without_images(plan: "Matrix", folders: Folders) -> None:
    """Without its source a recipe can run nothing. A target that is missing fails alone, and is announced."""
    from harness.cli.commands.plan import missing_data
    from harness.runner.executor import unfinished
    from writers.errors import UserError

    missing = missing_data(plan, folders, unfinished(plan, folders))
    if plan.recipe.source is not None and (source := plan.recipe.source.label) in missing:
        raise UserError(
            missing[source],
            "Put it there, or say where it is: --raw-dir DIR, or --set source.path=PATH",
        )
    for line in missing.values():
        click.secho(line, fg="yellow", err=True)


def _tell_failures(run: "Run") -> None:
    """What failed, why, and where to read more."""
    from harness.runner import stage_state as done

    click.secho(
        f"{len(run.failed)} failed, {len(run.blocked)} not run because they need those:",
        fg="red",
        err=True,
    )
    for key, message in run.failed.items():
        stage = run.to_do[key]
        click.secho(f"  {stage.name}: {message}", fg="red", err=True)
        if (
            error := stage.folder(run.folders.runs) / done.ERROR_FILE
        ).exists():  # not where the disk refused that, too
            click.secho(f"    {error}", fg="red", err=True)
    click.secho("Run the same command again to try them again.", fg="red", err=True)
