"""Run one stage under torchrun on this machine and derive its status from the ranks' answers."""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.matrix import stage_kind
from harness.runner import stage_state
from harness.runner.fork_server import describe_exit
from harness.runner.protocol import Answer, StageStatus
from harness.runner.retry import FailureCause
from harness.runner.signals import POLL_S, StopSignal
from harness.system import distributed
from writers import lease
from writers.text_names import printable

EXIT_CODE = re.compile(rb"exitcode\s*:\s*(-?\d+)")  # in torchrun's summary of failed processes
# Last line of a traceback; torchrun puts the rank before it after init_process_group.
ERROR_LINE = re.compile(rb"^(?:\[rank\d+\]: ?)?([\w.]+(?:Error|Exception): .+)$", re.MULTILINE)
MAX_ERROR = 200  # characters of an error in a message


def run(folder: Path, options: argparse.Namespace, stop: StopSignal) -> StageStatus:
    """Run the stage in `options.processes` processes of this machine.

    Args:
        folder: folder of the stage.
        options: arguments of the worker (`harness.runner.worker_args`).
        stop: when it is set, torchrun gets SIGTERM.

    Returns:
        Status, cause and message.
    """
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
    with TemporaryDirectory() as answers_dir, torchrun_log.open("a") as log:
        arguments += ["--answers", answers_dir]
        log_start = log.tell()
        process = subprocess.Popen(
            distributed.torchrun_command(
                options.processes, arguments, sys.executable, Path(answers_dir) / "rendezvous"
            ),
            env=distributed.torchrun_variables(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_ignore_scheduler_signal,
        )
        is_signaled = False
        while process.poll() is None:
            if stop.requested and not is_signaled:
                process.send_signal(signal.SIGTERM)  # torchrun forwards it to the ranks
                is_signaled = True
            time.sleep(POLL_S)
        answers: list[Answer] = [
            json.loads(file.read_text()) for file in Path(answers_dir).glob("*.json")
        ]
    stop.running = False
    kind = stage_kind.find(folder.parent.name, options.stages_package)
    if stage_state.is_done(kind, folder, options.data_dir):
        return "done", "", ""
    return _combine(answers, options.processes, stop.requested) or (
        "failed",
        "lost",
        f"One of {options.processes} processes {_describe_crash(torchrun_log, log_start)}; "
        f"each process's output is in {folder / 'log.*'}",
    )


def _ignore_scheduler_signal() -> None:
    """Let torchrun survive a scheduler's signal; the ranks install their own handlers."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _describe_crash(log: Path, start: int) -> str:
    """Describe the first crash in torchrun's log after byte `start`: of native code, or an error.

    Ranks report most errors in an answer, but not those before the process group is ready.
    """
    with log.open("rb") as file:
        file.seek(start)
        text = file.read()
    for code in map(int, EXIT_CODE.findall(text)):
        if -code in (signal.SIGSEGV, signal.SIGABRT):
            return describe_exit(code)
    if (error := ERROR_LINE.search(text)) is not None:
        return f"ended with {printable(error[1].decode(errors='replace'))[:MAX_ERROR]}"
    return "was lost"


def _combine(
    answers: Sequence[Answer], num_processes: int, stop_requested: bool
) -> StageStatus | None:
    """Combine the ranks' answers into the status of the stage; None if a rank was lost.

    If a rank fails, all other ranks fail too: they lose their peer, or torchrun stops them. Only
    the rank that failed first reports the original cause.
    """
    # "bug" is last, because torch may report a lost peer with an unexpected exception.
    causes: tuple[FailureCause, ...] = ("mistake", "out_of_memory", "restart", "bug")
    for cause in causes:
        for answer in answers:
            if answer["cause"] == cause:
                return "failed", cause, answer["message"]
    statuses = [answer["status"] for answer in answers]
    if stop_requested or statuses == ["stopped"] * num_processes:
        return "stopped", "", ""
    return ("busy", "", "") if "busy" in statuses else None
