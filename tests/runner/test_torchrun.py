"""Stages in two processes, as with `harness run --gpus-per-stage 2`, on the CPU."""

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
from harness.runner import inputs, result, torchrun
from harness.runner.executor import Run, begin
from harness.runner.launchers import local
from harness.runner.retry import RetryPolicy
from harness.system.folders import Folders
from tests.helpers import ROOT
from tests.helpers.execution import (
    FAST_RETRIES,
    LOOPBACK,
    listening_addresses,
    matrix_of,
    settings_for,
    wait_for,
    workers_of,
)
from writers import lease

RECIPE = """\
name: shared
source: {path: things, val: 0.25}
subsets: [all]
archs: [resnet10]
pretrain: {epochs: 40, batch_size: 24, resolution: 24, channels: [16, 16, 16, 16],
           eval_crop: 1.0, crop_scale: [0.8, 1.0], precision: float32, optimizer: {lr: 0.02}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a recipe and class folders that differ in color: 48 train images, 16 val images."""
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


def start_worker(folder: Path, stage: Path, *more: str) -> "subprocess.Popen[bytes]":
    line = [sys.executable, "-m", "harness.runner.worker", str(stage)]
    return subprocess.Popen(
        [*line, "--data-dir", str(folder / "data"), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_two_processes_train_like_one_and_resume_after_an_interruption(folder):
    folders = Folders(data=folder / "data", raw=folder / "raw", runs=folder / "one")
    planned = inputs.plan(read(folder / "shared.yaml"), folders)
    write, pretrain, *_ = planned.matrix.stages
    ours, theirs = (pretrain.folder(folder / runs) for runs in ("two", "one"))
    run = start(folder, "two", "--gpus-per-stage", "2")
    wait_for(lambda: run.poll() is not None or list((ours / "checkpoints").glob("*.pt")))
    run.send_signal(signal.SIGINT)
    _, message = run.communicate(timeout=240)
    assert run.returncode == 130 and "Resume with" in message and "Traceback" not in message, (
        message
    )
    assert result.load(ours) is None
    assert list((ours / "checkpoints").glob("*.pt"))
    assert not (ours / "error.txt").exists()
    assert not lease.is_held(ours)
    for stage in (write, pretrain):
        shutil.copytree(
            stage.folder(folder / "two"),
            stage.folder(folder / "one"),
            ignore=shutil.ignore_patterns("checkpoints"),
        )
    workers = [
        start_worker(folder, ours, "--processes", "2", "--threads", "2"),
        start_worker(folder, theirs, "--threads", "1"),
    ]
    assert [worker.wait(240) for worker in workers] == [0, 0]
    two, one = result.load(ours), result.load(theirs)
    assert (two.metrics["num_processes"], one.metrics["num_processes"]) == (2, 1)
    assert (two.environment["num_threads"], one.environment["num_threads"]) == (1, 1)
    assert two.timing["num_restarts"] == 1 and two.retries == {}
    assert "12 of the 24 images" in (ours / "log.rank1.txt").read_text()
    assert [(epoch["num_images"], epoch["num_steps"]) for epoch in two.metrics["epochs"]] == [
        (48, 2)
    ] * 40
    assert two.metrics["val"]["num_images"] == 16
    assert two.metrics["val"]["top1"] == one.metrics["val"]["top1"] == 1.0
    # Not equal, because BatchNorm sees 12 images per process and 24 in one process. Without
    # BatchNorm they are equal: tests/train/test_distributed.py.
    ours, theirs = (
        [epoch["train_loss"] for epoch in record.metrics["epochs"]] for record in (two, one)
    )
    assert ours[0] == pytest.approx(theirs[0], abs=0.1)
    assert np.mean(ours[:10]) == pytest.approx(np.mean(theirs[:10]), abs=0.2)


def test_exhausted_memory_in_one_process_is_retried(folders, make):
    """The processes of the stage listen on the loopback address only."""
    stage = make("shared", kind="evaluate", no_room_in_rank=1, sleep_s=1)
    settings = settings_for(folders, gpus_per_stage=2, began_at=begin(folders))
    events: list[tuple[str, str]] = []
    listening: set[str] = set()
    others = set(workers_of(os.getpid()))  # such as the daemons of other tests
    with local.open(settings) as launcher:
        run = Run(matrix_of(stage), folders, launcher, FAST_RETRIES)
        for event in run.events():
            listening |= listening_addresses(set(workers_of(os.getpid())) - others)
            if event.what != "waiting":
                events.append((event.what, event.message))
    assert [what for what, _ in events] == [
        "started",
        "retry",
        "started",
        "done",
    ]
    assert "Others hold the memory." in events[1][1]
    record = result.load(stage.folder(folders.runs))
    assert record.retries == {"out_of_memory": 1}
    assert record.metrics["num_processes"] == 2
    assert listening and listening <= LOOPBACK


def test_a_crash_in_one_process_names_its_signal(folders, make):
    stage = make("shared", kind="evaluate", crash="SIGSEGV")
    settings = settings_for(folders, gpus_per_stage=2, began_at=begin(folders))
    with local.open(settings) as launcher:
        run = Run(matrix_of(stage), folders, launcher, RetryPolicy(max_retries=0))
        list(run.events())
    message = run.failed[stage.key]
    assert (
        message.startswith("One of 2 processes was killed by SIGSEGV (") and "doctor" in message
    ), message


def test_an_error_before_the_processes_are_connected_is_named(folders, make, monkeypatch):
    """Such as a wrong interface; processes cannot answer yet."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "absent0")
    stage = make("shared", kind="evaluate")
    settings = settings_for(folders, gpus_per_stage=2, began_at=begin(folders))
    with local.open(settings) as launcher:
        run = Run(matrix_of(stage), folders, launcher, RetryPolicy(max_retries=0))
        list(run.events())
    message = run.failed[stage.key]
    assert message.startswith("One of 2 processes ended with RuntimeError: "), message
    assert "absent0" in message and "log.*" in message


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
        # One process was killed without an answer, and torchrun stopped the other.
        ([answer("stopped")], False, None),
        ([answer("failed", "lost")], False, None),
        ([answer("failed", "lost")], True, ("stopped", "", "")),
        ([answer("busy"), answer("busy")], False, ("busy", "", "")),
        ([], False, None),
    ],
)
def test_the_most_informative_answer_of_a_rank_determines_the_status(
    answers, stop_requested, expected
):
    assert torchrun._combine(answers, 2, stop_requested) == expected
