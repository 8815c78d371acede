"""Run a small recipe to its end although its processes are killed at random moments.

Executors and workers are killed with SIGKILL, and one executor is interrupted with Ctrl-C. The
final files must equal those of an undisturbed run, byte for byte. The long form of the test uses
the demo recipe with one epoch per training, and disturbs it 20 times:

    pytest tests/runner/test_end_to_end.py --kill-demo 20 --timeout 3600
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.cli.benches._matrix_runs import one_epoch_settings
from harness.config.load import read
from harness.matrix.expand import Matrix
from harness.runner import inputs, result
from harness.system.folders import Folders
from tests.helpers import ROOT
from tests.helpers.execution import is_alive, wait_for, workers_of
from writers import lease

RECIPE = """\
name: small
source: {path: things, val: 0.25}
ranking: {split: val}
subsets:
  - all
  - {name: minus1, remove: {hardest: 1, by: reference}}
archs: [resnet10]
eps: [0, 0.5]
pretrain: {epochs: 3, batch_size: 8, resolution: 32, channels: [16, 16, 16, 16],
           precision: float32, attack: {steps: 1}}
evaluate: {attack: {steps: 2}, batch_size: 8}
targets:
  - {path: others, val: 0.25, test: 0.25}
methods:
  fixed: {epochs: 1, batch_size: 8, resolution: 32, lrs: [0.1], precision: float32}
  full: {epochs: 1, batch_size: 8, resolution: 32, lrs: [0.1], precision: float32}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a recipe and two trees of class folders whose classes differ in color."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.yaml").write_text(RECIPE)
    rng = np.random.default_rng(0)
    for tree, num_classes in (("things", 4), ("others", 3)):
        for label in range(num_classes):
            (folder / "raw" / tree / f"class{label}").mkdir(parents=True)
            for index in range(12):
                size = rng.integers(18, 40, 2)
                pixels = np.full((*size, 3), 60 * label) + rng.integers(0, 60, (*size, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(
                    folder / "raw" / tree / f"class{label}" / f"{index}.jpg"
                )
    return folder


@dataclass(frozen=True)
class Case:
    """A recipe, the folder to run it in, and how often to disturb the run."""

    folder: Path
    recipe: str
    overrides: list[str]
    num_disturbances: int

    @property
    def matrix(self) -> Matrix:
        name = self.folder / self.recipe if self.recipe.endswith(".yaml") else self.recipe
        return self.expand(name, self.overrides)

    def expand(self, recipe: str | Path, overrides: list[str]) -> Matrix:
        """Expand a recipe as `harness run` does; keys depend on the list of raw images."""
        folders = Folders(
            data=self.folder / "quiet-data",
            raw=self.folder / "raw",
            runs=self.folder / "quiet",
        )
        return inputs.plan(read(recipe, overrides), folders).matrix

    def start(self, runs: str) -> "subprocess.Popen[str]":
        line = [
            sys.executable,
            "-m",
            "harness.cli.main",
            "run",
            self.recipe,
            "--jobs",
            "2",
            "--runs-dir",
            runs,
            "--data-dir",
            f"{runs}-data",
            "--raw-dir",
            "raw",
            "--checkpoint-minutes",
            "0.02",
        ]
        line += [part for override in self.overrides for part in ("--set", override)]
        return subprocess.Popen(
            line,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=(self.folder / f"{runs}.log").open("a"),
        )


@pytest.fixture(scope="module")
def case(folder: Path, request: pytest.FixtureRequest) -> Case:
    if num := request.config.getoption("--kill-demo", None):
        return Case(folder, "demo", one_epoch_settings("demo", []), num)
    return Case(folder, "small.yaml", [], 4)


@pytest.fixture(scope="module")
def quiet(case: Case) -> Path:
    """Return the runs folder of an undisturbed run."""
    run = case.start("quiet")
    out, _ = run.communicate()
    log = (case.folder / "quiet.log").read_text()
    assert run.returncode == 0, log
    report = Path(out.strip().removeprefix("Report: "))
    name = case.matrix.recipe.name
    assert report == case.folder / "quiet" / "reports" / name / "index.html"
    assert report.stat().st_size > 1000
    for kind in ("pretrain", "transfer"):
        assert all(
            stage.name.replace("/", " ") in log
            for stage in case.matrix.stages
            if stage.kind == kind
        )
    return case.folder / "quiet"


def test_a_result_records_recipe_and_inputs(case: Case, quiet: Path):
    matrix = case.matrix
    for stage in matrix.stages:
        record = result.load(stage.folder(quiet))
        again = case.expand(quiet / record.recipe, [])
        assert [stage.key for stage in again.stages] == [stage.key for stage in matrix.stages]
        assert record.environment["git_revision"] or not (ROOT / ".git").exists()
        for role, need in stage.needs.items():
            outputs = {
                f"{role}/{file}": digest
                for file, digest in result.load(need.folder(quiet)).outputs.items()
            }
            assert outputs.items() <= record.inputs.items() and (outputs or need.kind == "rank")
        assert (
            stage.kind != "pretrain"
            or record.outputs["model.pt"]
            == hashlib.sha256((stage.folder(quiet) / "model.pt").read_bytes()).hexdigest()
        )


def test_an_interrupted_and_killed_run_ends_with_the_same_files(case: Case, quiet: Path):
    matrix, disturbed = case.matrix, case.folder / "disturbed"
    seen, processes = disturb(case, random.Random(11))
    wait_for(lambda: not any(is_alive(pid) for pid in processes))
    assert numbers(matrix, disturbed) == numbers(matrix, quiet)
    for stage in matrix.stages:
        assert (
            result.load(stage.folder(disturbed)).outputs == result.load(stage.folder(quiet)).outputs
        ), stage.name
        record = stage.folder(disturbed) / "result.json"
        assert seen.get(stage.key, written(record)) == written(record), (
            f"{stage.name} was finished twice"
        )
        assert not lease.is_held(record.parent)
    betons = [
        {
            path.relative_to(case.folder / data): path.read_bytes()
            for path in (case.folder / data).rglob("*.beton")
        }
        for data in ("quiet-data", "disturbed-data")
    ]
    assert betons[0] and betons[0] == betons[1]
    print(
        f"{len(matrix.stages)} stages, disturbed {case.num_disturbances} times; "
        f"all {len(processes)} processes have ended"
    )


def disturb(case: Case, rng: random.Random) -> tuple[dict[str, tuple[int, int]], set[int]]:
    """Run the recipe to its end, and disturb it after random numbers of finished stages.

    The last disturbance sends Ctrl-C (SIGINT) to the executor. All earlier ones send SIGKILL to
    the executor, to a worker, or to both. If the executor ends, the same command is started again.

    Returns:
        Inode and modification time (ns) of each result when it was first seen, by stage key, and
        the pids of all executors and workers.
    """
    stages, runs = case.matrix.stages, case.folder / "disturbed"
    points = sorted(rng.uniform(0, len(stages) - 1) for _ in range(case.num_disturbances))
    seen: dict[str, tuple[int, int]] = {}
    processes: set[int] = set()
    run = case.start("disturbed")

    def observe() -> int:
        processes.update({run.pid, *workers_of(run.pid)})
        for stage in stages:
            record = stage.folder(runs) / "result.json"
            if stage.key not in seen and record.exists():
                seen[stage.key] = written(record)
        return len(seen)

    for number, point in enumerate(points, start=1):
        while observe() < int(point) or not workers_of(run.pid):
            assert run.poll() is None, (case.folder / "disturbed.log").read_text()
            time.sleep(0.02)
        time.sleep(point % 1)
        observe()
        workers = workers_of(run.pid)
        interrupt = number == case.num_disturbances
        victims = (
            [run.pid]
            if interrupt
            else rng.choice([[run.pid], workers[:1], workers[-1:], [run.pid, *workers[:1]]])
        )
        for pid in victims:
            os.kill(pid, signal.SIGINT if interrupt else signal.SIGKILL)
        if run.pid in victims:
            code, is_over = run.wait(240), observe() == len(stages)
            assert code == (130 if interrupt else -signal.SIGKILL) or (
                is_over and code in (0, -signal.SIGINT)
            )
            run = case.start("disturbed")
    while run.poll() is None:
        observe()
        time.sleep(0.05)
    assert run.returncode == 0, (case.folder / "disturbed.log").read_text()
    return seen, processes


def written(record: Path) -> tuple[int, int]:
    """Return inode and modification time (ns), which differ after each write."""
    stat = record.stat()
    return stat.st_ino, stat.st_mtime_ns


def numbers(matrix: Matrix, runs: Path) -> dict[str, Any]:
    """Return the metrics of every stage, without measured times."""
    metrics = {}
    for stage in matrix.stages:
        record = result.load(stage.folder(runs))
        assert record is not None, stage.name
        metrics[stage.name] = _without_clock(record.metrics)
    return metrics


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_clock(inner)
            for key, inner in value.items()
            if not key.endswith(("_s", "seconds"))
        }
    return [_without_clock(inner) for inner in value] if isinstance(value, list) else value
