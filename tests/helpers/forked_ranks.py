"""Ranks of a process group, and workers of one stage, as forked processes of a test."""

import importlib
import multiprocessing
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.matrix.stage import key_of
from harness.matrix.stage_kind import find
from harness.runner import result, worker
from harness.system.atomic_write import write_json
from tests.helpers.tiny_stages import PRETRAIN


class ForkedRanks:
    """Processes of one group that run `job(*arguments)`. They are forked, which saves imports."""

    def __init__(self, job: Callable[..., Any], *arguments: Any, num_processes: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("fork")
        self.processes = [
            context.Process(target=_run_rank, args=(rank, num_processes, port, job, arguments))
            for rank in range(num_processes)
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This process.*is multi-threaded", DeprecationWarning)
            for process in self.processes:
                process.start()

    def codes(self) -> list[int | None]:
        """Wait at most four minutes for each process and return the exit codes.

        The code of a process that has not ended by then is None; it is killed.
        """
        for process in self.processes:
            process.join(240)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes


def _run_rank(
    rank: int, num_processes: int, port: int, job: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Set the variables that torchrun sets, and run the job."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    job(*arguments)


ROBUST_PRETRAIN = {
    **PRETRAIN,
    "epochs": 2,
    "batch_size": 11,
    "ema_decay": 0.9,
    "attack": {"steps": 1, "random_start": "ball"},
}


def make_stage(runs: Path, written: result.Result, **settings: Any) -> Path:
    """Save the result `written` of a write stage, and define a robust pretrain stage that needs it.

    Returns the folder of the pretrain stage, which has not run yet.
    """
    config = {
        "arch": "resnet10",
        "eps": 0.5,
        "seed": 0,
        "settings": {**ROBUST_PRETRAIN, **settings},
    }
    key = key_of("pretrain", find("pretrain").version, config, {"data": written.key})
    folder = runs / "stages" / "pretrain" / key
    result.save(written, runs / "stages" / "write" / written.key)
    write_json(
        folder / "stage.json",
        {
            "kind": "pretrain",
            "key": key,
            "name": "pretrain",
            "axes": {},
            "needs": {"data": {"kind": "write", "key": written.key}},
            "config": config,
        },
    )
    return folder


def run_worker(folder: Path, data: Path, pause_s: float = 0.0, *more: str) -> None:
    """Run the stage as one process of a group.

    Args:
        folder: folder of the stage, in which the rank creates a file step<RANK> after a step.
        data: folder of `.beton` files.
        pause_s: pause after each step, so that a test can stop the stage midway.
        more: further options of the worker.
    """
    for place, name in (
        ("harness.profiling.trace.StepTrace", "after_step"),
        ("harness.stages._progress.PassProgress", "__call__"),
    ):
        _pause_after(place, name, folder, pause_s)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 - the worker redirects it
    sys.argv = [
        "harness.runner.worker",
        str(folder),
        "--data-dir",
        str(data),
        "--threads",
        "1",
        *more,
    ]
    worker.main()


def _pause_after(place: str, name: str, folder: Path, pause_s: float) -> None:
    """Replace a method of the class `place` by one that creates a file and pauses after it."""
    module, _, owner = place.rpartition(".")
    owner = getattr(importlib.import_module(module), owner)
    original = getattr(owner, name)

    def paused(*arguments: Any) -> None:
        original(*arguments)
        (folder / f"step{os.environ['RANK']}").touch()
        time.sleep(pause_s)

    setattr(owner, name, paused)


def metrics_of(folder: Path) -> dict[str, Any]:
    """Return the metrics of a finished stage that do not depend on interruptions."""
    stage_result = result.load(folder)
    assert stage_result is not None, [path.read_text() for path in folder.glob("*.txt")]
    return {
        key: value for key, value in stage_result.metrics.items() if key != "damaged_checkpoints"
    }
