"""Runs one stage in several processes of this machine, which torchrun starts, and tells from their ends what became of it."""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.matrix import stage_kind
from harness.runner import lease, stage_state
from harness.runner.fork_server import describe_exit
from harness.runner.signals import LOOK_AGAIN_S, StopSignal
from harness.system import distributed

EXIT_CODE = re.compile(rb"exitcode\s*:\s*(-?\d+)")  # in torchrun's summary of failed processes


def run(folder: Path, options: argparse.Namespace, stop: StopSignal) -> tuple[str, str, str]:
    """Status, cause and message of a stage that torchrun starts in `options.processes` processes of this machine."""
    if lease.is_held(folder):
        return "busy", "", ""
    arguments = [
        "harness.worker",
        str(folder),
        "--data-dir",
        str(options.data_dir),
        "--raw-dir",
        str(options.raw_dir),
        "--device",
        options.device,
        "--threads",
        str(max(1, options.threads // options.processes)),
        "--checkpoint-minutes",
        str(options.checkpoint_minutes),
        "--trace",
        str(options.trace),
        "--stages-package",
        options.stages_package,
        *(["--shares-gpu"] if options.shares_gpu else []),
        *(["--began-at", repr(options.began_at)] if options.began_at is not None else []),
    ]
    stop.running = True
    torchrun_log = folder / "log.torchrun.txt"
    with TemporaryDirectory() as answers, torchrun_log.open("a") as log:
        arguments += ["--answers", answers]
        begin = log.tell()
        process = subprocess.Popen(
            distributed.torchrun_command(options.processes, arguments, sys.executable),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        told = False
        while process.poll() is None:
            if stop.requested and not told:
                process.send_signal(signal.SIGTERM)  # torchrun hands it on
                told = True
            time.sleep(LOOK_AGAIN_S)
        told_by = [json.loads(answer.read_text()) for answer in Path(answers).glob("*.json")]
    stop.running = False
    spec = stage_kind.find(folder.parent.name, options.stages_package)
    if stage_state.is_done(spec, folder, options.data_dir):
        return "done", "", ""
    return _of_all(told_by, options.processes, stop.requested) or (
        "failed",
        "lost",
        f"One of {options.processes} processes {_how_one_ended(torchrun_log, begin)}; each one's output is in "
        f"{folder / 'log.*'}",
    )


def _how_one_ended(log: Path, begin: int) -> str:
    """Describe the crash of native code that torchrun's log names after byte `begin`; "was lost" if it names none."""
    with log.open("rb") as file:
        file.seek(begin)
        codes = [int(code) for code in EXIT_CODE.findall(file.read())]
    return next(
        (describe_exit(code) for code in codes if -code in (signal.SIGSEGV, signal.SIGABRT)),
        "was lost",
    )


def _of_all(
    answers: list[dict[str, Any]], num_processes: int, stop_requested: bool
) -> tuple[str, str, str] | None:
    """Status, cause and message of a stage by how its processes ended; None: by the loss of one.

    One that fails takes the others with it, which have then lost it, or been told by torchrun to stop. It alone knows why.
    """
    for cause in (
        "mistake",
        "out_of_memory",
        "bug",
    ):  # a bug last: it may be a loss that torch has put in other words
        for answer in answers:
            if answer["cause"] == cause:
                return "failed", cause, answer["message"]
    statuses = [answer["status"] for answer in answers]
    if stop_requested or statuses == ["stopped"] * num_processes:
        return "stopped", "", ""
    return ("busy", "", "") if "busy" in statuses else None
