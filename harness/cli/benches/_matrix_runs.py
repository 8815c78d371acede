"""Run and time a recipe in a scratch folder, for `harness bench matrix`."""

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

from harness.cli.benches._rounds import take_turns
from harness.runner import slot_time
from harness.system.folders import Folders, user_cache

if TYPE_CHECKING:
    from harness.matrix.expand import Matrix
    from harness.matrix.stage import Stage
    from harness.runner.result import Result

WATCH_EVERY_S = 0.1


class MatrixRuns:
    """Run `harness` commands on a recipe, in a scratch folder, and time them."""

    def __init__(
        self, recipe_name: str, overrides: Sequence[str], scratch: Path, jobs: int | None
    ) -> None:
        self._recipe_name, self._overrides = recipe_name, list(overrides)
        self._scratch, self._jobs = scratch, jobs

    def warm_up(self) -> dict[Any, "Result"]:
        """Run every stage with one epoch; return a result per `slot_time.startup_key`.

        The key is the stage's kind, its method (None if it has none), and whether eps is above 0.
        """
        folders = self.folders("warm_up")
        settings = one_epoch_settings(self._recipe_name, self._overrides)
        self._harness("run", folders, settings)
        return {
            slot_time.startup_key(stage): result
            for stage, result in _results(self.plan(settings), folders)
        }

    def overhead(self, number: int) -> dict[str, Any]:
        """Run the recipe in empty folders, report included; return how its slots spent the time.

        A slot runs one stage at a time. `parts_s` has the seconds of all slots together for each
        purpose, such as own_work: the work of the stages.
        """
        from harness.runner.launcher import LauncherSettings
        from harness.runner.slots import make_slots

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
        slots = make_slots(LauncherSettings(folders, self._jobs))
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
        self,
        num_stages: int,
        templates: dict[Any, "Result"],
        num_rounds: int,
        deadline: float | None = None,
    ) -> dict[str, Any]:
        """Time `harness plan` and `harness run` of a matrix whose stages are all done.

        Args:
            num_stages: Smallest number of stages; the recipe gets as many seeds as that takes.
            templates: Results to copy, as `warm_up` returns them.
            num_rounds: Number of rounds without a deadline.
            deadline: Value of `time.monotonic()` by which to finish; see `take_turns`.

        Returns:
            `num_stages`; `run_with_report_s`, seconds of the first run, which also writes the
            report; and `rounds`, with `plan_s` and `run_s`, the seconds of both commands.
        """
        folders = self.folders("finished")
        per_seed = len(self.plan(["seeds=[0,1]"]).stages) - len(self.plan(["seeds=[0]"]).stages)
        seeds = [f"seeds={list(range(-(-num_stages // per_seed)))}"]
        stages = self.plan(seeds).stages
        for stage in stages:
            _write_result(stage, templates, folders.runs)
        report_s = self._harness("run", folders, seeds)
        rounds: list[dict[str, float]] = []

        def plan_and_run() -> float:
            plan_s = self._harness("plan", folders, seeds)
            rounds.append({"plan_s": plan_s, "run_s": self._harness("run", folders, seeds)})
            return len(stages) / rounds[-1]["run_s"]

        take_turns({"finished": plan_and_run}, num_rounds, deadline=deadline)
        return {"num_stages": len(stages), "run_with_report_s": report_s, "rounds": rounds}

    def plan(self, more: Sequence[str]) -> "Matrix":
        """Expand the recipe with further `--set` values."""
        from harness.config.load import read
        from harness.matrix.expand import expand

        return expand(read(self._recipe_name, [*self._overrides, *more]))

    def folders(self, name: str) -> Folders:
        """Return the folders for one run, in the scratch folder."""
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
            UserError: The command failed. The message contains the end of its output.
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
    """CPU seconds so far of `harness run` (process `pid`) and its children.

    These include the fork server, but not the workers that it forks. 0 if the process has ended or
    /proc does not exist.
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
    """Return `--set` values that shorten the recipe's trainings to one epoch or one step.

    Methods whose length is given in steps train for one step. Variants and reference models keep
    lengths of their own.
    """
    from harness.config.load import read
    from harness.config.transfer import TransferSettings

    recipe = read(recipe_name, overrides, user_cache())
    settings = []
    if recipe.subsets:
        settings = ["pretrain.epochs=1", "pretrain.optimizer.warmup_epochs=0"]
        settings += ["pretrain.progressive=null"] if recipe.pretrain.progressive else []
    for label, method in recipe.methods.items():
        if isinstance(method, TransferSettings):  # logistic regression has no length
            axes = [
                f"grid.{axis}=[1]" for axis in ("epochs", "steps") if axis in method.grid.axes()
            ]
            own = "epochs=1" if method.steps is None else "steps=1"
            settings.append(f"methods.{label}.{axes[0] if axes else own}")
    return settings


def _results(plan: "Matrix", folders: Folders) -> list[tuple["Stage", "Result"]]:
    """Return each stage that has a result, with this result."""
    from harness.runner import result

    records = [(stage, result.load(stage.folder(folders.runs))) for stage in plan.stages]
    return [(stage, record) for stage, record in records if record is not None]


def _write_result(stage: "Stage", templates: dict[Any, "Result"], runs: Path) -> None:
    """Write a made-up result with the size of a real result of this kind of stage.

    The file is not synced to the disk, because only reading is measured.
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
