"""What running a matrix costs beside its stages' own work; a finished matrix run again; small stages packed on one GPU."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._common import Goal, time_limit_option
from harness.runner import slot_time
from harness.system.folders import Folders

if TYPE_CHECKING:
    from harness.cli.benches._common import Measured
    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage
    from harness.runner.result import Result

MOST_OVERHEAD = 0.02  # of the slots' time
MOST_FINISHED_MS = 50.0  # for each finished stage, when its matrix is run again
MOST_PLAN_S = 1.0
PACKED_MUST = 2.0
NUM_PACKED = 12
WATCH_EVERY_S = 0.1
PACKING_GOAL = Goal(
    "together",
    ("alone",),
    PACKED_MUST,
    title=f"{NUM_PACKED} fine-tunes together / one after another",
)


@click.command(short_help="Overhead of a matrix, a finished one run again, stages packed on a GPU.")
@click.option("--recipe", "recipe_name", default="demo", show_default=True, metavar="RECIPE")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting of it; may be given again.",
)
@click.option("--overhead", is_flag=True, help="Only this: the whole recipe, once a round.")
@click.option("--finished", is_flag=True, help="Only this: a finished matrix, run again.")
@click.option(
    "--packing",
    is_flag=True,
    help=f"Only this: {NUM_PACKED} small fine-tunes on one GPU, and one after another.",
)
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--stages",
    "num_stages",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Of the finished one.",
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="As of `harness run`.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Default: bench_matrix in the data folder.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Every round; saved after each.",
)
@time_limit_option
@click.option(
    "--data-dir", envvar="HARNESS_DATA", default="./data", metavar="DIR", show_envvar=True
)
def command(
    recipe_name: str,
    overrides: tuple[str, ...],
    overhead: bool,
    finished: bool,
    packing: bool,
    num_rounds: int,
    num_stages: int,
    jobs: int | None,
    scratch: Path | None,
    json_file: Path | None,
    time_limit_s: float | None,
    data_dir: str,
) -> None:
    """Measure what the system adds to the stages' own work. Prints Markdown.

    Overhead is all of the slots' time in which they do no stage's own work although a stage is ready: the command's start,
    the workers' start and imports, compiled code loaded at first use, leases, results, waiting for the executor, the report;
    and what the command itself computes while every slot is busy. A short pass before the first round warms the caches on disk.
    """
    import shutil

    from harness.cli.benches import _common as bench
    from harness.system import environment

    deadline = bench.deadline_in(time_limit_s)
    everything = not (overhead or finished or packing)
    scratch = (scratch or Path(data_dir) / "bench_matrix").expanduser().resolve()
    work = Work(recipe_name, overrides, scratch, jobs)
    device = "cuda:0" if environment.gpu_names() else "cpu"
    found: dict[str, Any] = {}
    measured: dict[str, Measured] = {}
    absent: dict[str, str] = {}

    def record(packed: "dict[str, Measured]") -> dict[str, Any]:
        """Of what was measured so far; saved where a file is asked for."""
        rounds = found.get("overhead") or found.get("finished", {}).get("rounds", [])
        content = bench.record(
            "matrix",
            {"recipe": recipe_name, "overrides": list(overrides)},
            packed,
            bench.ratios(packed, [PACKING_GOAL]),
            device=device,
            absent=absent,
            rounds_complete=None if packed else len(rounds),
            rounds_planned=num_rounds,
            **found,
        )
        if json_file is not None:
            bench.save(json_file, content)
        return content

    try:
        if packing or everything:
            if device == "cpu":
                absent["packing"] = "there is no GPU"
            else:
                measured = _packing(work, num_rounds, deadline, record)
        templates = work.warm_up() if overhead or finished or everything else {}
        if overhead or everything:
            for number in range(num_rounds):
                found["overhead"] = [*found.get("overhead", []), work.overhead(number)]
                record(measured)
        if finished or everything:
            found["finished"] = work.finished(num_stages, templates, num_rounds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    click.echo(markdown(record(measured)))


class Work:
    """The recipe, run in a scratch folder."""

    def __init__(
        self, recipe_name: str, overrides: Sequence[str], scratch: Path, jobs: int | None
    ) -> None:
        self.recipe_name, self.overrides, self.scratch, self.jobs = (
            recipe_name,
            list(overrides),
            scratch,
            jobs,
        )

    def warm_up(self) -> dict[Any, "Result"]:
        """Every kind of stage once, with epochs of one; returns a result of each kind and method."""
        folders, settings = self._folders("warm_up"), small(self.recipe_name, self.overrides)
        self._harness("run", folders, settings)
        return {
            slot_time.likeness(stage): found
            for stage, found in _results(self._plan(settings), folders)
        }

    def overhead(self, number: int) -> dict[str, Any]:
        """Slot-seconds of one run from nothing to the report."""
        from harness.runner.launcher import LauncherSettings
        from harness.runner.launchers import local

        folders = self._folders(f"round{number}")
        began = time.time()
        beside: list[tuple[float, float]] = []
        self._harness(
            "run",
            folders,
            [],
            watch=lambda pid: beside.append((time.time(), cpu_beside_stages(pid))),
        )
        ended = time.time()
        spans = slot_time.spans_of(_results(self._plan([]), folders), folders.runs)
        slots = local.slots(LauncherSettings(folders, self.jobs))
        num_slots = sum(not slot.gives_way for slot in slots)
        parts = slot_time.account(spans, num_slots, began, ended, beside)
        slot_s = num_slots * (ended - began)
        overhead = slot_s - parts["own_work"] - parts["no_stage_ready"]
        return {
            "wall_s": ended - began,
            "num_slots": num_slots,
            "num_stages": len(spans),
            "slot_s": slot_s,
            "parts_s": parts,
            "overhead_s": overhead,
            "overhead_share": overhead / slot_s,
            "load_average": os.getloadavg()[0],
        }

    def finished(
        self, num_stages: int, templates: dict[Any, "Result"], num_rounds: int
    ) -> dict[str, Any]:
        """Seconds of `harness plan` and `harness run` where every stage is done, and of a run that writes the report anew."""
        folders = self._folders("finished")
        per_seed = len(self._plan(["seeds=[0,1]"]).stages) - len(self._plan(["seeds=[0]"]).stages)
        seeds = [f"seeds={list(range(-(-num_stages // per_seed)))}"]
        stages = self._plan(seeds).stages
        for stage in stages:
            _fake(stage, templates, folders.runs)
        report_s = self._harness("run", folders, seeds)
        rounds = [
            {
                "plan_s": self._harness("plan", folders, seeds),
                "run_s": self._harness("run", folders, seeds),
            }
            for _ in range(num_rounds)
        ]
        return {"num_stages": len(stages), "run_with_report_s": report_s, "rounds": rounds}

    def _plan(self, more: Sequence[str]) -> "Matrix":
        from harness.config import load as recipe
        from harness.matrix import expand as matrix

        return matrix.expand(recipe.read(self.recipe_name, [*self.overrides, *more]))

    def _folders(self, name: str) -> Folders:
        return Folders(
            self.scratch / name / "data", self.scratch / name / "raw", self.scratch / name / "runs"
        )

    def _harness(
        self,
        what: str,
        folders: Folders,
        more: Iterable[str],
        watch: Callable[[int], None] | None = None,
    ) -> float:
        """Seconds that the command takes, from nothing to its end. Raises UserError with its last words where it fails.

        watch: called with the process's number now and then.
        """
        from writers.errors import UserError

        line = [
            sys.executable,
            "-m",
            "harness.cli.main",
            what,
            self.recipe_name,
            "--data-dir",
            str(folders.data),
            "--raw-dir",
            str(folders.raw),
            "--runs-dir",
            str(folders.runs),
        ]
        line += [part for override in (*self.overrides, *more) for part in ("--set", override)]
        line += ["--jobs", str(self.jobs)] if what == "run" and self.jobs else []
        with TemporaryFile("w+") as said:
            started = time.perf_counter()
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=said)
            over = threading.Event()

            def keep_watch() -> None:
                while watch is not None and not over.wait(WATCH_EVERY_S):
                    watch(process.pid)

            threading.Thread(target=keep_watch, daemon=True).start()
            code, took_s = process.wait(), time.perf_counter() - started
            over.set()
            said.seek(0)
            if code != 0:
                raise UserError(
                    f"harness {what} {self.recipe_name} has failed: "
                    + " / ".join(said.read().strip().splitlines()[-3:])
                )
        return took_s


def cpu_beside_stages(pid: int) -> float:
    """CPU seconds so far of `harness run` and of what forks its workers; not of the workers. 0 where there is no /proc."""
    ticks = 0
    try:
        for process in (pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        pass  # it has just ended
    return ticks / os.sysconf("SC_CLK_TCK")


def small(recipe_name: str, overrides: Sequence[str]) -> list[str]:
    """Settings under which each training of the recipe takes one epoch."""
    from harness.config import load as recipe

    methods = recipe.read(recipe_name, overrides).methods
    return [
        "pretrain.epochs=1",
        "pretrain.optimizer.warmup_epochs=0",
        *(f"methods.{method}.epochs=1" for method in methods),
    ]


def markdown(content: dict[str, Any]) -> str:
    """The record in tables, with a verdict on each promise."""
    from harness.cli.benches import _common as bench

    lines = [bench.markdown(content).splitlines()[0]]
    if content.get("overhead"):
        rounds = content["overhead"]
        middle = sorted(rounds, key=lambda one: float(one["overhead_share"]))[
            (len(rounds) - 1) // 2
        ]
        verdict = "reached" if middle["overhead_share"] <= MOST_OVERHEAD else "NOT REACHED"
        lines += [
            "",
            f"{middle['num_stages']} stages in {middle['wall_s']:.0f} s on {middle['num_slots']} slots: overhead "
            f"{100 * middle['overhead_share']:.2f} % (rounds: "
            + ", ".join(f"{100 * one['overhead_share']:.2f}" for one in rounds)
            + f"), must be at most {100 * MOST_OVERHEAD:.0f} %: {verdict}",
            "",
            "| of the slots' time | s | % |",
            "|---|---|---|",
        ]
        lines += [
            f"| {name.replace('_', ' ')} | {seconds:.2f} | {100 * seconds / middle['slot_s']:.2f} |"
            for name, seconds in middle["parts_s"].items()
        ]
    if content.get("finished"):
        found = content["finished"]
        num, runs = found["num_stages"], sorted(one["run_s"] for one in found["rounds"])
        plans = sorted(one["plan_s"] for one in found["rounds"])
        run_ms, plan_s = 1000 * runs[len(runs) // 2] / num, plans[len(plans) // 2]
        lines += [
            "",
            f"{num:,} finished stages",
            "",
            "| | s | ms a stage | must | |",
            "|---|---|---|---|---|",
            f"| harness run | {runs[len(runs) // 2]:.2f} | {run_ms:.2f} | {MOST_FINISHED_MS:.0f} ms | "
            f"{'reached' if run_ms <= MOST_FINISHED_MS else 'NOT REACHED'} |",
            f"| harness run, writing the report | {found['run_with_report_s']:.2f} | "
            f"{1000 * found['run_with_report_s'] / num:.2f} | {MOST_FINISHED_MS:.0f} ms | "
            f"{'reached' if 1000 * found['run_with_report_s'] / num <= MOST_FINISHED_MS else 'NOT REACHED'} |",
            f"| harness plan | {plan_s:.2f} | {1000 * plan_s / num:.2f} | {MOST_PLAN_S:.0f} s | "
            f"{'reached' if plan_s < MOST_PLAN_S else 'NOT REACHED'} |",
        ]
    if content["contenders"] or content["absent"]:
        lines += bench.markdown(content).splitlines()[1:]
    return "\n".join(lines) + "\n"


def _results(plan: "Matrix", folders: Folders) -> list[tuple["Stage", "Result"]]:
    from harness.runner import result

    found = [(stage, result.load(stage.folder(folders.runs))) for stage in plan.stages]
    return [(stage, one) for stage, one in found if one is not None]


def _fake(stage: "Stage", templates: dict[Any, "Result"], runs: Path) -> None:
    """A result as long as a real one of its kind. Not synced to the disk: only reading is measured."""
    folder = stage.folder(runs)
    folder.mkdir(parents=True)
    record = templates[slot_time.likeness(stage)].model_copy(
        update={
            "key": stage.key,
            "name": stage.name,
            "axes": stage.axes,
            "config": stage.config,
            "needs": {role: need.key for role, need in stage.needs.items()},
        }
    )
    (folder / "stage.json").write_text(json.dumps(stage.describe()))
    (folder / "result.json").write_text(json.dumps(record.model_dump(mode="json"), indent=1))


def _packing(
    work: Work,
    num_rounds: int,
    deadline: float | None,
    on_round: "Callable[[dict[str, Measured]], object]",
) -> dict[str, "Measured"]:
    """Fine-tunes a second, of warm workers that share the first GPU, and of one warm worker.

    Args:
        deadline: `time.monotonic()` after which no round begins that would end later.
        on_round: Called after each round with what was measured so far.
    """
    from contextlib import ExitStack

    from harness.cli.benches import _common as bench
    from harness.cli.benches._common import Measured
    from harness.matrix.expand import Matrix
    from harness.runner.executor import Run
    from harness.runner.launcher import LauncherSettings
    from harness.runner.launchers import local
    from writers.errors import UserError

    plan = work._plan(
        ["pretrain.epochs=1", "pretrain.optimizer.warmup_epochs=0", "methods.full.epochs=30"]
    )
    tune = next(
        stage
        for stage in plan.stages
        if stage.kind == "transfer" and stage.axes["method"] == "full"
    )
    folders = work._folders("packing")

    def run(launcher: local.LocalLauncher, stages: Sequence["Stage"]) -> None:
        running = Run(Matrix(plan.recipe, tuple(stages)), folders, launcher)
        for _ in running.events():
            pass
        if running.failed:
            raise UserError(f"A stage has failed: {next(iter(running.failed.values()))}")

    def tunes(first_seed: int) -> list["Stage"]:
        needed = [tune.needs["model"].needs["data"], tune.needs["model"], tune.needs["data"]]
        return [
            *needed,
            *(
                replace(
                    tune,
                    config={**tune.config, "seed": first_seed + number},
                    name=f"{tune.name}/{number}",
                )
                for number in range(NUM_PACKED)
            ),
        ]

    measured = {
        "together": Measured(f"{NUM_PACKED} side by side", "stages"),
        "alone": Measured("one after another", "stages"),
    }
    seeds = iter(range(1000, 10**9, NUM_PACKED))
    with ExitStack() as stack:
        launchers = {}
        for name, per_gpu in (("together", NUM_PACKED), ("alone", 1)):
            settings = LauncherSettings(folders, per_gpu, "cuda", jobs_per_gpu=per_gpu)
            slots = local.slots(settings)
            slots = [slot if slot.gives_way else replace(slot, gpu=slots[0].gpu) for slot in slots]
            launchers[name] = stack.enter_context(local.LocalLauncher(settings, slots))
            for _ in range(
                2
            ):  # the first of a kind runs alone, to be measured; then all workers get warm
                run(launchers[name], tunes(next(seeds)))

        def round_of(name: str) -> Callable[[], float]:
            def measure() -> float:
                stages = tunes(next(seeds))
                started = time.perf_counter()
                run(launchers[name], stages)
                took = time.perf_counter() - started
                measured[name].details.append({"wall_s": took})
                return NUM_PACKED / took

            return measure

        def after_round(rates: dict[str, list[float]]) -> None:
            for name, found in rates.items():
                measured[name].rates = found
            on_round(measured)

        bench.take_turns(
            {name: round_of(name) for name in measured},
            num_rounds,
            on_round=after_round,
            deadline=deadline,
        )
    return measured
