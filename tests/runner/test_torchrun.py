"""A stage in two processes: `harness run --gpus-per-stage 2` on the CPU, interrupted and run again."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.config.load import read
from harness.matrix.expand import expand
from harness.runner import lease, result
from harness.runner import torchrun as processes
from harness.runner.executor import Run, begin
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.runner.retry import Policy
from tests.helpers import ROOT
from tests.runner.test_executor import SOON, folders, make, matrix_of, wait_for

__all__ = ["folders", "make"]
RECIPE = """\
name: shared
source: {path: things, val: 0.25}
subsets: [all]
archs: [resnet10]
pretrain: {epochs: 40, batch_size: 24, resolution: 24, channels: [16, 16, 16, 16], eval_crop: 1.0, crop_scale: [0.8, 1.0],
           precision: float32, optimizer: {lr: 0.02}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe, and a tree of class folders whose classes differ in colour: 48 images to train on, 16 to judge by."""
    (tmp_path / "shared.yaml").write_text(RECIPE)
    rng = np.random.default_rng(0)
    for label in range(4):
        (tmp_path / "raw" / "things" / f"class{label}").mkdir(parents=True)
        for index in range(16):
            pixels = np.full((24, 20, 3), 60 * label) + rng.integers(0, 60, (24, 20, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "raw" / "things" / f"class{label}" / f"{index}.png"
            )
    return tmp_path


def start(folder: Path, runs: str, *more: str) -> "subprocess.Popen[str]":
    line = [
        sys.executable,
        "-m",
        "harness.cli.main",
        "run",
        "shared.yaml",
        "--device",
        "cpu",
        "--jobs",
        "1",
        "--threads",
        "2",
        "--runs-dir",
        runs,
        "--data-dir",
        "data",
        "--raw-dir",
        "raw",
        "--checkpoint-minutes",
        "0.002",
        *more,
    ]
    return subprocess.Popen(
        line,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stderr=subprocess.PIPE,
    )


def test_two_processes_train_what_one_would_and_go_on_where_they_were_stopped(folder):
    write, pretrain, *_ = expand(read(folder / "shared.yaml")).stages
    ours, theirs = (pretrain.folder(folder / runs) for runs in ("two", "one"))
    run = start(folder, "two", "--gpus-per-stage", "2")
    wait_for(lambda: run.poll() is not None or list((ours / "checkpoints").glob("*.pt")), 120)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130 and "Go on with" in said and "Traceback" not in said, said
    assert (
        result.load(ours) is None
        and list((ours / "checkpoints").glob("*.pt"))
        and not (ours / "error.txt").exists()
    )
    assert not lease.is_held(ours)
    for stage in (write, pretrain):
        shutil.copytree(
            stage.folder(folder / "two"),
            stage.folder(folder / "one"),
            ignore=shutil.ignore_patterns("checkpoints"),
        )
    line = [
        sys.executable,
        "-m",
        "harness.runner.worker",
        str(theirs),
        "--data-dir",
        str(folder / "data"),
        "--threads",
        "1",
    ]
    alone = subprocess.Popen(line, env={**os.environ, "PYTHONPATH": str(ROOT)})
    again = start(folder, "two", "--gpus-per-stage", "2")
    wait_for(lambda: again.poll() is not None or (ours / "result.json").exists(), 120)
    again.send_signal(
        signal.SIGINT
    )  # what is left, the evaluation and the report, is tested elsewhere
    _, said = again.communicate(timeout=60)
    assert again.returncode == 130 and alone.wait(60) == 0, said
    two, one = result.load(ours), result.load(theirs)
    assert (two.metrics["num_processes"], one.metrics["num_processes"]) == (2, 1)
    assert (two.environment["num_threads"], one.environment["num_threads"]) == (1, 1)
    assert two.timing["num_restarts"] == 1 and two.retries == {}
    assert "12 of the 24 images" in (ours / "log.rank1.txt").read_text()
    assert [(epoch["num_images"], epoch["num_steps"]) for epoch in two.metrics["epochs"]] == [
        (48, 2)
    ] * 40
    assert (
        two.metrics["val"]["num_images"] == 16
        and two.metrics["val"]["top1"] == one.metrics["val"]["top1"] == 1.0
    )
    # BatchNorm sees 12 images here and 24 there, or else they would be equal: tests/train/test_distributed.py
    ours, theirs = (
        [epoch["train_loss"] for epoch in record.metrics["epochs"]] for record in (two, one)
    )
    assert ours[0] == pytest.approx(theirs[0], abs=0.1) and np.mean(ours[:10]) == pytest.approx(
        np.mean(theirs[:10]), abs=0.2
    )


def test_memory_that_runs_out_in_one_process_is_worth_another_try(folders, make, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stage = make("shared", kind="evaluate", no_room_in_rank=1)
    with local.open(
        LauncherSettings(
            folders,
            1,
            "cpu",
            "tests.helpers.fake_stages",
            gpus_per_stage=2,
            began_at=begin(folders),
        )
    ) as launcher:
        run = Run(matrix_of(stage), folders, launcher, SOON)
        told = [(event.what, event.message) for event in run.events() if event.what != "waiting"]
    assert [what for what, _ in told] == [
        "started",
        "retry",
        "started",
        "done",
    ] and "Others hold the memory." in told[1][1]
    assert result.load(stage.folder(folders.runs)).retries == {"out_of_memory": 1}


def test_a_crash_in_one_process_names_its_signal(folders, make, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    stage = make("shared", kind="evaluate", crash="SIGSEGV")
    settings = LauncherSettings(
        folders, 1, "cpu", "tests.helpers.fake_stages", gpus_per_stage=2, began_at=begin(folders)
    )
    with local.open(settings) as launcher:
        run = Run(matrix_of(stage), folders, launcher, Policy(most=0))
        list(run.events())
    said = run.failed[stage.key]
    assert said.startswith("One of 2 processes was killed by SIGSEGV (") and "doctor" in said, said


def answer(status: str, cause: str = "") -> dict[str, str]:
    return {"status": status, "cause": cause, "message": f"of {cause}"}


@pytest.mark.parametrize(
    ("answers", "stop_requested", "expected"),
    [
        (
            [answer("failed", "lost"), answer("failed", "out_of_memory")],
            False,
            ("failed", "out_of_memory", "of out_of_memory"),
        ),
        (
            [answer("failed", "bug"), answer("failed", "out_of_memory")],
            False,
            ("failed", "out_of_memory", "of out_of_memory"),
        ),
        (
            [answer("failed", "mistake"), answer("failed", "mistake")],
            False,
            ("failed", "mistake", "of mistake"),
        ),
        ([answer("failed", "lost"), answer("failed", "bug")], True, ("failed", "bug", "of bug")),
        ([answer("stopped"), answer("stopped")], False, ("stopped", "", "")),
        ([answer("stopped")], False, None),  # one was killed, the other told to stop by torchrun
        ([answer("failed", "lost")], False, None),
        ([answer("failed", "lost")], True, ("stopped", "", "")),
        ([answer("busy"), answer("busy")], False, ("busy", "", "")),
        ([], False, None),
    ],
)
def test_of_several_processes_the_one_that_knows_why_speaks_for_all(
    answers, stop_requested, expected
):
    assert processes._of_all(answers, 2, stop_requested) == expected
