"""Runs one stage on whatever machine a cluster chose, and brings the answer back: what the ray and slurm launchers share.

The worker ends when this process does, also by SIGKILL: its stdin closes.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.runner.fork_server import ForkedWorker, ForkServer, SpawnedWorker, describe_exit
from harness.runner.launcher import (
    THREAD_VARIABLES,
    Finished,
    LauncherSettings,
    request_line,
)
from harness.runner.signals import STOPPED

SAVE_S = 20.0  # for a stage that is asked to stop to write its checkpoint
LOOK_EVERY_S = 0.5  # while waiting: so that signals are seen


@dataclass(frozen=True)
class WorkerRequest:
    """A stage's folder, and the command that starts a worker for it. Pickled on its way to the machine."""

    folder: Path
    command: tuple[str, ...]
    module: str  # of the stage's code
    num_threads: int
    on_gpu: bool
    shares_gpu: bool

    @classmethod
    def of(
        cls, folder: Path, settings: LauncherSettings, num_threads: int, *, gpus: bool
    ) -> "WorkerRequest":
        """gpus: whether the cluster has any for this run."""
        on_gpu = gpus and settings.stage_kind(folder.parent.name).needs_gpu
        command = settings.worker_command("cuda:0" if on_gpu else "cpu", num_threads)
        module = settings.run_module(folder.parent.name)
        return cls(
            folder,
            tuple(command),
            module,
            num_threads,
            on_gpu,
            on_gpu and settings.jobs_per_gpu > 1,
        )


def finished(folder: Path, answer: dict[str, Any]) -> Finished:
    """What `RemoteAttempt.run` brought back, for the executor."""
    return Finished(folder, answer["status"], answer["message"], answer["cause"])


class RemoteAttempt:
    """One attempt at a stage. `run` answers; `stop`, from a signal handler or another thread, makes it save and answer soon."""

    def __init__(self, order: WorkerRequest, fork_server: ForkServer | None = None) -> None:
        """fork_server: on this machine, where its process runs one attempt after another."""
        self.order, self.fork_server = order, fork_server
        self.process: ForkedWorker | SpawnedWorker | None = None

    def run(self) -> dict[str, Any]:
        """{"status", "cause", "message"} as of `harness.runner.launcher.Finished`. An interruption stops the stage, then goes on."""
        if not (self.order.folder / "stage.json").exists():
            return _failed(
                "mistake",
                f"{socket.gethostname()} does not see {self.order.folder}: --runs-dir, --data-dir and "
                f"--raw-dir must lie on a file system that all machines share, under the same paths.",
            )
        self._start()
        try:
            return self._answer(None)
        except (KeyboardInterrupt, SystemExit):
            self.stop()
            self._answer(SAVE_S)
            raise
        finally:
            self._end()

    def stop(self) -> None:
        """Ask the stage to save and stop."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def stop_and_wait(self) -> None:
        """Ask the stage to save, and wait until it has or its time is over."""
        self.stop()
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(SAVE_S)

    def _start(self) -> None:
        variables = dict.fromkeys(THREAD_VARIABLES, str(self.order.num_threads))
        if not self.order.on_gpu:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        elif (
            "CUDA_VISIBLE_DEVICES" in os.environ
        ):  # the cluster's choice; the fork server has that of an earlier stage
            variables["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
        if self.fork_server is not None:
            with contextlib.suppress(OSError):  # it has died: then without
                self.process = self.fork_server.fork(
                    self.order.module, self.order.command, variables
                )
        if self.process is None:
            self.process = SpawnedWorker(self.order.command, variables)
        assert self.process.stdin is not None
        with contextlib.suppress(
            BrokenPipeError
        ):  # it died at its start: its output ends, which is an answer too
            self.process.stdin.write(
                request_line(self.order.folder, shares_gpu=self.order.shares_gpu)
            )
            self.process.stdin.flush()

    def _answer(self, at_most_s: float | None) -> dict[str, Any]:
        """The worker's answer, or what became of it. The stdin stays open meanwhile: its end would stop the stage."""
        assert self.process is not None and self.process.stdout is not None
        output, text, started = self.process.stdout.fileno(), b"", time.monotonic()
        while at_most_s is None or time.monotonic() - started < at_most_s:
            if not select.select([output], [], [], LOOK_EVERY_S)[0]:
                continue
            chunk = os.read(output, 65536)
            text += chunk
            if b"\n" in text:
                answer: dict[str, Any] = json.loads(text)
                return {name: answer[name] for name in ("status", "cause", "message")}
            if not chunk:
                code = self.process.wait()
                if code == STOPPED:  # between two stages
                    return {"status": "stopped", "cause": "", "message": ""}
                return _failed(
                    "lost",
                    f"The worker process on {socket.gethostname()} {describe_exit(code)}; its output is in "
                    f"{self.order.folder / 'log.txt'}",
                )
        return _failed(
            "lost", f"The stage did not stop within {at_most_s:.0f} s of being asked to."
        )

    def _end(self) -> None:
        """End the worker and all that it has started."""
        assert (
            self.process is not None
            and self.process.stdin is not None
            and self.process.stdout is not None
        )
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def _failed(cause: str, message: str) -> dict[str, Any]:
    return {"status": "failed", "cause": cause, "message": message}
