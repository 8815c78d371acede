"""Overhead of a matrix beyond its stages' own work; a finished matrix; small stages on one GPU."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._rounds import time_limit_option
from harness.cli.options import json_option, set_option
from harness.runner import slot_time
from harness.system.folders import Folders

if TYPE_CHECKING:
    from harness.cli.benches._rounds import Measured
    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage
    from harness.runner.result import Result

# Largest acceptable values: overhead as a fraction of the slots' time, milliseconds for each stage
# of a finished matrix that is run again, and seconds of `harness plan`.
MAX_OVERHEAD = 0.02
MAX_FINISHED_MS = 50.0
MAX_PLAN_S = 1.0
WATCH_EVERY_S = 0.1


@click.command(short_help="Overhead of a matrix, a finished one run again, stages packed on a GPU.")
@click.option(
    "--recipe",
    "recipe_name",
    default="demo",
    show_default=True,
    metavar="RECIPE",
    help="Recipe to run.",
)
@set_option
@click.option("--overhead", is_flag=True, help="Only run the whole recipe, once per round.")
@click.option("--finished", is_flag=True, help="Only run a finished matrix again.")
@click.option(
    "--packing",
    is_flag=True,
    help="Only run 12 small fine-tunes on one GPU, together and one after another.",
)
@click.option(
    "--rounds",
    "num_rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of rounds.",
)
@click.option(
    "--stages",
    "num_stages",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Number of stages of the finished matrix.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Number of slots, as in harness run."
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder to run in; removed at the end. Default: bench_matrix in the data folder.",
)
@json_option
@time_limit_option
@click.option(
    "--data-dir",
    envvar="HARNESS_DATA",
    default="./data",
    metavar="DIR",
    show_envvar=True,
    help="Folder of betons.",
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

    Overhead is the time in which a slot does no stage's own work although a stage is ready: start
    of the command and of workers, imports, loading of compiled code, leases, results, waiting for
    the executor, and the report. Work of the command while every slot is busy counts too. A short
    pass before the first round warms the caches on disk.

    Example: harness bench matrix --overhead --rounds 3 --json matrix.json
    """
    import shutil

    from harness.cli.benches import _packing
    from harness.cli.benches._record import compute_ratios, make_record, save
    from harness.cli.benches._rounds import deadline_in
    from harness.system import environment

    deadline = deadline_in(time_limit_s)
    everything = not (overhead or finished or packing)
    scratch = (scratch or Path(data_dir) / "bench_matrix").expanduser().resolve()
    runs = MatrixRuns(recipe_name, overrides, scratch, jobs)
    device = "cuda:0" if environment.gpu_names() else "cpu"
    results: dict[str, Any] = {}
    packed: dict[str, Measured] = {}
    absent: dict[str, str] = {}

    def record(packed: "dict[str, Measured]") -> dict[str, Any]:
        """Build the record of everything measured so far; write it if a file was named."""
        rounds = results.get("overhead") or results.get("finished", {}).get("rounds", [])
        content = make_record(
            "matrix",
            {"recipe": recipe_name, "overrides": list(overrides)},
            packed,
            compute_ratios(packed, [_packing.GOAL]),
            device=device,
            absent=absent,
            rounds_complete=None if packed else len(rounds),
            rounds_planned=num_rounds,
            **results,
        )
        if json_file is not None:
            save(json_file, content)
        return content

    try:
        if packing or everything:
            if device == "cpu":
                absent["packing"] = "there is no GPU"
            else:
                packed = _packing.measure_packing(
                    runs.plan(_packing.SETTINGS),
                    runs.folders("packing"),
                    num_rounds,
                    deadline,
                    record,
                )
        templates = runs.warm_up() if overhead or finished or everything else {}
        if overhead or everything:
            for number in range(num_rounds):
                results["overhead"] = [*results.get("overhead", []), runs.overhead(number)]
                record(packed)
        if finished or everything:
            results["finished"] = runs.finished(num_stages, templates, num_rounds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    click.echo(markdown(record(packed)))


class MatrixRuns:
    """Runs of a recipe in a scratch folder, each by the command line."""

    def __init__(
        self, recipe_name: str, overrides: Sequence[str], scratch: Path, jobs: int | None
    ) -> None:
        self._recipe_name, self._overrides = recipe_name, list(overrides)
        self._scratch, self._jobs = scratch, jobs

    def warm_up(self) -> dict[Any, "Result"]:
        """Run every stage with one epoch; return a result of each kind and method."""
        folders = self.folders("warm_up")
        settings = one_epoch_settings(self._recipe_name, self._overrides)
        self._harness("run", folders, settings)
        return {
            slot_time.startup_key(stage): result
            for stage, result in _results(self.plan(settings), folders)
        }

    def overhead(self, number: int) -> dict[str, Any]:
        """Run the recipe from nothing to the report; return its slot-seconds by purpose."""
        from harness.runner.launcher import LauncherSettings
        from harness.runner.launchers import local

        folders = self.folders(f"round{number}")
        began = time.time()
        cpu_samples: list[tuple[float, float]] = []
        self._harness(
            "run",
            folders,
            [],
            watch=lambda pid: cpu_samples.append((time.time(), cpu_outside_stages_s(pid))),
        )
        ended = time.time()
        spans = slot_time.spans_of(_results(self.plan([]), folders), folders.runs)
        slots = local.slots(LauncherSettings(folders, self._jobs))
        num_slots = sum(not slot.low_priority for slot in slots)
        parts = slot_time.account(spans, num_slots, began, ended, cpu_samples)
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
        """Time `harness plan` and `harness run` of a matrix whose stages are all done.

        Args:
            num_stages: Smallest number of stages; the recipe gets enough seeds.
            templates: Results to copy, by kind and method, as `warm_up` returns them.
            num_rounds: Number of rounds.

        Returns:
            Seconds of each round, and of the first run, which also writes the report.
        """
        folders = self.folders("finished")
        per_seed = len(self.plan(["seeds=[0,1]"]).stages) - len(self.plan(["seeds=[0]"]).stages)
        seeds = [f"seeds={list(range(-(-num_stages // per_seed)))}"]
        stages = self.plan(seeds).stages
        for stage in stages:
            _write_result(stage, templates, folders.runs)
        report_s = self._harness("run", folders, seeds)
        rounds = [
            {
                "plan_s": self._harness("plan", folders, seeds),
                "run_s": self._harness("run", folders, seeds),
            }
            for _ in range(num_rounds)
        ]
        return {"num_stages": len(stages), "run_with_report_s": report_s, "rounds": rounds}

    def plan(self, more: Sequence[str]) -> "Matrix":
        """Expand the recipe with further `--set` values."""
        from harness.config.load import read
        from harness.matrix.expand import expand

        return expand(read(self._recipe_name, [*self._overrides, *more]))

    def folders(self, name: str) -> Folders:
        """Return folders of their own in the scratch folder."""
        root = self._scratch / name
        return Folders(root / "data", root / "raw", root / "runs")

    def _harness(
        self,
        command: str,
        folders: Folders,
        more: Iterable[str],
        watch: Callable[[int], None] | None = None,
    ) -> float:
        """Run a harness command on the recipe; return its wall time in seconds.

        Args:
            command: run or plan.
            folders: Folders of the run.
            more: Further `--set` values.
            watch: Called with the command's process id every WATCH_EVERY_S seconds.

        Raises:
            UserError: The command fails; with the end of its output.
        """
        from writers.errors import UserError

        arguments = [
            sys.executable,
            "-m",
            "harness.cli.main",
            command,
            self._recipe_name,
            "--data-dir",
            str(folders.data),
            "--raw-dir",
            str(folders.raw),
            "--runs-dir",
            str(folders.runs),
        ]
        arguments += [part for value in (*self._overrides, *more) for part in ("--set", value)]
        arguments += ["--jobs", str(self._jobs)] if command == "run" and self._jobs else []
        with TemporaryFile("w+") as stderr:
            started = time.perf_counter()
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=stderr)
            is_over = threading.Event()

            def keep_watch() -> None:
                while watch is not None and not is_over.wait(WATCH_EVERY_S):
                    watch(process.pid)

            threading.Thread(target=keep_watch, daemon=True).start()
            code, wall_s = process.wait(), time.perf_counter() - started
            is_over.set()
            stderr.seek(0)
            if code != 0:
                raise UserError(
                    f"harness {command} {self._recipe_name} failed: "
                    + " / ".join(stderr.read().strip().splitlines()[-3:])
                )
        return wall_s


def cpu_outside_stages_s(pid: int) -> float:
    """CPU seconds so far of `harness run` and of the fork server, without the workers.

    0 if /proc does not exist.
    """
    ticks = 0
    try:
        for process in (pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        pass  # the process has just ended
    return ticks / os.sysconf("SC_CLK_TCK")


def one_epoch_settings(recipe_name: str, overrides: Sequence[str]) -> list[str]:
    """Return `--set` values with which each training of the recipe takes one epoch."""
    from harness.config.load import read

    methods = read(recipe_name, overrides).methods
    return [
        "pretrain.epochs=1",
        "pretrain.optimizer.warmup_epochs=0",
        *(f"methods.{method}.epochs=1" for method in methods),
    ]


def markdown(record: dict[str, Any]) -> str:
    """Format the record as tables, with a verdict on each goal."""
    from harness.cli.benches import _record

    lines = [_record.markdown(record).splitlines()[0]]
    if record.get("overhead"):
        rounds = record["overhead"]
        middle = sorted(rounds, key=lambda row: float(row["overhead_share"]))[
            (len(rounds) - 1) // 2
        ]
        shares = ", ".join(f"{100 * row['overhead_share']:.2f}" for row in rounds)
        lines += [
            "",
            f"{middle['num_stages']} stages in {middle['wall_s']:.0f} s on {middle['num_slots']} "
            f"slots: overhead {100 * middle['overhead_share']:.2f} % (rounds: {shares}), must be "
            f"at most {100 * MAX_OVERHEAD:.0f} %: "
            + _verdict(middle["overhead_share"] <= MAX_OVERHEAD),
            "",
            "| of the slots' time | s | % |",
            "|---|---|---|",
        ]
        lines += [
            f"| {name.replace('_', ' ')} | {seconds:.2f} | {100 * seconds / middle['slot_s']:.2f} |"
            for name, seconds in middle["parts_s"].items()
        ]
    if record.get("finished"):
        finished = record["finished"]
        num_stages, rounds = finished["num_stages"], finished["rounds"]
        run_s = sorted(row["run_s"] for row in rounds)[len(rounds) // 2]
        plan_s = sorted(row["plan_s"] for row in rounds)[len(rounds) // 2]
        lines += [
            "",
            f"{num_stages:,} finished stages",
            "",
            "| | s | ms a stage | must | |",
            "|---|---|---|---|---|",
        ]
        for name, seconds in (
            ("harness run", run_s),
            ("harness run, writing the report", finished["run_with_report_s"]),
        ):
            ms = 1000 * seconds / num_stages
            lines.append(
                f"| {name} | {seconds:.2f} | {ms:.2f} | {MAX_FINISHED_MS:.0f} ms | "
                f"{_verdict(ms <= MAX_FINISHED_MS)} |"
            )
        lines.append(
            f"| harness plan | {plan_s:.2f} | {1000 * plan_s / num_stages:.2f} | "
            f"{MAX_PLAN_S:.0f} s | {_verdict(plan_s < MAX_PLAN_S)} |"
        )
    if record["contenders"] or record["absent"]:
        lines += _record.markdown(record).splitlines()[1:]
    return "\n".join(lines) + "\n"


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "NOT REACHED"


def _results(plan: "Matrix", folders: Folders) -> list[tuple["Stage", "Result"]]:
    """Return the stages that have a result, with it."""
    from harness.runner import result

    records = [(stage, result.load(stage.folder(folders.runs))) for stage in plan.stages]
    return [(stage, record) for stage, record in records if record is not None]


def _write_result(stage: "Stage", templates: dict[Any, "Result"], runs: Path) -> None:
    """Write a result as long as a real one of its kind.

    It is not synced to the disk, because only reading is measured.
    """
    folder = stage.folder(runs)
    folder.mkdir(parents=True)
    record = templates[slot_time.startup_key(stage)].model_copy(
        update={
            "key": stage.key,
            "name": stage.name,
            "axes": stage.axes,
            "config": stage.config,
            "needs": {role: need.key for role, need in stage.needs.items()},
        }
    )
    (folder / "stage.json").write_text(json.dumps(stage.to_json()))
    (folder / "result.json").write_text(json.dumps(record.model_dump(mode="json"), indent=1))
