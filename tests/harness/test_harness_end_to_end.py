"""The whole of it on a few tiny images: a run that is interrupted, killed and continued ends with a quiet run's numbers."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness import result
from harness.matrix import Matrix, expand
from harness.recipe import read

ROOT = Path(__file__).parents[2]
RECIPE = """\
name: small
source: {path: things, val: 0.25}
ranking: {split: val}
subsets:
  - all
  - {name: minus1, remove: {hardest: 1, by: reference}}
archs: [resnet10]
eps: [0, 0.5]
pretrain: {epochs: 3, batch_size: 8, resolution: 16, channels: [8, 8, 8, 8], attack: {steps: 1}}
evaluate: {attack: {steps: 2}, batch_size: 8}
targets:
  - {path: others, val: 0.25, test: 0.25}
methods:
  fixed: {epochs: 1, batch_size: 8, resolution: 16, lrs: [0.1]}
  full: {epochs: 1, batch_size: 8, resolution: 16, lrs: [0.1]}
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
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "raw" / tree / f"class{label}" / f"{index}.jpg")
    return folder


def start(folder: Path, runs: str, jobs: int) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "harness.cli", "run", "small.yaml", "--jobs", str(jobs),
            "--runs-dir", runs, "--data-dir", f"{runs}-data", "--raw-dir", "raw"]
    return subprocess.Popen(line, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


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
        return {key: _without_clock(inner) for key, inner in value.items() if not key.endswith(("_s", "seconds"))}
    return [_without_clock(inner) for inner in value] if isinstance(value, list) else value


def test_a_run_that_was_interrupted_and_killed_ends_with_the_same_numbers(folder: Path):
    matrix = expand(read(folder / "small.yaml"))
    quiet = start(folder, "quiet", jobs=2)
    out, err = quiet.communicate(timeout=200)
    assert quiet.returncode == 0, err
    report = Path(out.strip().removeprefix("Report: "))
    assert report == folder / "quiet" / "reports" / "small" / "index.html" and report.stat().st_size > 1000
    for kind in ("pretrain", "transfer"):
        assert all(stage.name.replace("/", " ") in err for stage in matrix.stages if stage.kind == kind)

    for stage in matrix.stages:
        record = result.load(stage.folder(folder / "quiet"))
        again = expand(read(folder / "quiet" / record.recipe))
        assert [one.key for one in again.stages] == [one.key for one in matrix.stages]
        assert record.environment["git_revision"] or not (ROOT / ".git").exists()
        for role, need in stage.needs.items():
            left = {f"{role}/{file}": digest for file, digest in
                    result.load(need.folder(folder / "quiet")).outputs.items()}
            assert left.items() <= record.inputs.items() and (left or need.kind == "rank")
        assert stage.kind != "pretrain" or record.outputs["model.pt"] == hashlib.sha256(
            (stage.folder(folder / "quiet") / "model.pt").read_bytes()).hexdigest()

    for signal_, kind in ((signal.SIGINT, "pretrain"), (signal.SIGKILL, "transfer")):
        disturbed = start(folder, "disturbed", jobs=2)
        deadline = time.monotonic() + 100
        while not list(folder.glob(f"disturbed/stages/{kind}/*/stage.json")):
            assert time.monotonic() < deadline and disturbed.poll() is None
            time.sleep(0.01)
        disturbed.send_signal(signal_)
        disturbed.communicate(timeout=60)
        assert disturbed.returncode == (130 if signal_ == signal.SIGINT else -signal.SIGKILL)
    disturbed = start(folder, "disturbed", jobs=2)
    out, err = disturbed.communicate(timeout=200)
    assert disturbed.returncode == 0, err
    assert numbers(matrix, folder / "disturbed") == numbers(matrix, folder / "quiet")
    betons = [{path.relative_to(folder / data): path.read_bytes() for path in (folder / data).rglob("*.beton")}
              for data in ("quiet-data", "disturbed-data")]
    assert betons[0] and betons[0] == betons[1]
