"""The whole of it on a few tiny images: a run that is interrupted and killed, it and its workers, at random points ends with a
quiet run's files, byte for byte.

    pytest tests/runner/test_end_to_end.py --kill-demo 20 --timeout 3600    the long form: the demo, scaled down
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

from harness.cli.benches.matrix import one_epoch_settings
from harness.config.load import read
from harness.matrix.expand import Matrix, expand
from harness.runner import lease, result
from tests.helpers import ROOT
from tests.runner.test_executor import is_alive, wait_for
from tests.runner.test_kill import workers_of

RECIPE = """\
name: small
source: {path: things, val: 0.25}
ranking: {split: val}
subsets:
  - all
  - {name: minus1, remove: {hardest: 1, by: reference}}
archs: [resnet10]
eps: [0, 0.5]
pretrain: {epochs: 3, batch_size: 8, resolution: 32, channels: [16, 16, 16, 16], precision: float32, attack: {steps: 1}}
evaluate: {attack: {steps: 2}, batch_size: 8}
targets:
  - {path: others, val: 0.25, test: 0.25}
methods:
  fixed: {epochs: 1, batch_size: 8, resolution: 32, lrs: [0.1], precision: float32}
  full: {epochs: 1, batch_size: 8, resolution: 32, lrs: [0.1], precision: float32}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and two trees of class folders whose classes differ in colour."""
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
class Asked:
    """A recipe, its matrix, and the folder that it runs in."""

    folder: Path
    recipe: str
    overrides: list[str]
    num_disturbances: int

    @property
    def matrix(self) -> Matrix:
        return expand(
            read(
                self.folder / self.recipe if self.recipe.endswith(".yaml") else self.recipe,
                self.overrides,
            )
        )

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
def asked(folder: Path, request: pytest.FixtureRequest) -> Asked:
    if num := request.config.getoption("--kill-demo", None):
        return Asked(folder, "demo", one_epoch_settings("demo", []), num)
    return Asked(folder, "small.yaml", [], 4)


@pytest.fixture(scope="module")
def quiet(asked: Asked) -> Path:
    """The runs folder of a run that nobody has disturbed."""
    run = asked.start("quiet")
    out, _ = run.communicate()
    told = (asked.folder / "quiet.log").read_text()
    assert run.returncode == 0, told
    report = Path(out.strip().removeprefix("Report: "))
    name = asked.matrix.recipe.name
    assert (
        report == asked.folder / "quiet" / "reports" / name / "index.html"
        and report.stat().st_size > 1000
    )
    for kind in ("pretrain", "transfer"):
        assert all(
            stage.name.replace("/", " ") in told
            for stage in asked.matrix.stages
            if stage.kind == kind
        )
    return asked.folder / "quiet"


def test_a_result_says_what_it_was_made_from(asked: Asked, quiet: Path):
    matrix = asked.matrix
    for stage in matrix.stages:
        record = result.load(stage.folder(quiet))
        again = expand(read(quiet / record.recipe))
        assert [one.key for one in again.stages] == [one.key for one in matrix.stages]
        assert record.environment["git_revision"] or not (ROOT / ".git").exists()
        for role, need in stage.needs.items():
            left = {
                f"{role}/{file}": digest
                for file, digest in result.load(need.folder(quiet)).outputs.items()
            }
            assert left.items() <= record.inputs.items() and (left or need.kind == "rank")
        assert (
            stage.kind != "pretrain"
            or record.outputs["model.pt"]
            == hashlib.sha256((stage.folder(quiet) / "model.pt").read_bytes()).hexdigest()
        )


def test_a_run_that_is_interrupted_and_killed_ends_with_the_same_files(asked: Asked, quiet: Path):
    matrix, disturbed = asked.matrix, asked.folder / "disturbed"
    seen, processes = disturb(asked, random.Random(11))
    wait_for(lambda: not any(is_alive(pid) for pid in processes))
    assert numbers(matrix, disturbed) == numbers(matrix, quiet)
    for stage in matrix.stages:
        assert (
            result.load(stage.folder(disturbed)).outputs == result.load(stage.folder(quiet)).outputs
        ), stage.name
        record = stage.folder(disturbed) / "result.json"
        assert seen.get(stage.key, written(record)) == written(record), (
            f"{stage.name} was run twice to completion"
        )
        assert not lease.is_held(record.parent)
    betons = [
        {
            path.relative_to(asked.folder / data): path.read_bytes()
            for path in (asked.folder / data).rglob("*.beton")
        }
        for data in ("quiet-data", "disturbed-data")
    ]
    assert betons[0] and betons[0] == betons[1]
    print(
        f"{len(matrix.stages)} stages, disturbed {asked.num_disturbances} times; {len(processes)} processes, all ended"
    )


def disturb(asked: Asked, rng: random.Random) -> tuple[dict[str, tuple[int, int]], set[int]]:
    """Run to the end, with SIGKILL for the executor, a worker or both, and at last a Ctrl-C, at points spread over the stages.

    Returns each result as it was first seen, and every process that was there.
    """
    stages, runs = asked.matrix.stages, asked.folder / "disturbed"
    points = sorted(rng.uniform(0, len(stages) - 1) for _ in range(asked.num_disturbances))
    seen: dict[str, tuple[int, int]] = {}
    processes: set[int] = set()
    run = asked.start("disturbed")

    def look() -> int:
        processes.update({run.pid, *workers_of(run.pid)})
        for stage in stages:
            record = stage.folder(runs) / "result.json"
            if stage.key not in seen and record.exists():
                seen[stage.key] = written(record)
        return len(seen)

    for number, point in enumerate(points, start=1):
        while look() < int(point) or not workers_of(run.pid):
            assert run.poll() is None, (asked.folder / "disturbed.log").read_text()
            time.sleep(0.02)
        time.sleep(point % 1)
        look()
        workers = workers_of(run.pid)
        interrupt = number == asked.num_disturbances
        victims = (
            [run.pid]
            if interrupt
            else rng.choice([[run.pid], workers[:1], workers[-1:], [run.pid, *workers[:1]]])
        )
        for pid in victims:
            os.kill(pid, signal.SIGINT if interrupt else signal.SIGKILL)
        if run.pid in victims:
            code, is_over = run.wait(60), look() == len(stages)
            assert code == (130 if interrupt else -signal.SIGKILL) or (
                is_over and code in (0, -signal.SIGINT)
            )
            run = asked.start("disturbed")
    while run.poll() is None:
        look()
        time.sleep(0.05)
    assert run.returncode == 0, (asked.folder / "disturbed.log").read_text()
    return seen, processes


def written(record: Path) -> tuple[int, int]:
    """Other numbers after each writing."""
    stat = record.stat()
    return stat.st_ino, stat.st_mtime_ns


def numbers(matrix: Matrix, runs: Path) -> dict[str, Any]:
    """What every stage found out, without what the clock has a say in."""
    found = {}
    for stage in matrix.stages:
        record = result.load(stage.folder(runs))
        assert record is not None, stage.name
        found[stage.name] = _without_clock(record.metrics)
    return found


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_clock(inner)
            for key, inner in value.items()
            if not key.endswith(("_s", "seconds"))
        }
    return [_without_clock(inner) for inner in value] if isinstance(value, list) else value
