"""Run one stage on a machine of a cluster and return its answer; shared by ray and slurm.

When this process ends, even by SIGKILL, the worker's stdin is closed, so the worker ends too.
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
from typing import TypedDict

from harness.matrix.stage import FILE_NAME
from harness.runner.fork_server import (
    ForkedWorker,
    ForkServer,
    SpawnedWorker,
    describe_exit,
    wait_for_killed,
)
from harness.runner.launcher import THREAD_VARIABLES, Finished, LauncherSettings
from harness.runner.protocol import Answer, Status, request_line
from harness.runner.retry import FailureCause
from harness.runner.signals import STOPPED

SAVE_S = 20.0  # time for a stage to write its checkpoint after it was asked to stop
ENDED_S = 2.0  # wait for a worker to exit after the end of its output
POLL_S = 0.5  # longest wait between two checks for signals


class RemoteAnswer(TypedDict):
    """Outcome of a `RemoteAttempt`; see `harness.runner.protocol.Answer`."""

    status: Status
    cause: FailureCause
    message: str


@dataclass(frozen=True)
class WorkerRequest:
    """Everything needed to run a stage on another machine; it is pickled.

    Attributes:
        folder: folder of the stage.
        command: command that starts a worker.
        module: module with the stage's code.
        num_threads: CPU threads of the stage.
        on_gpu: the stage uses a GPU.
        shares_gpu: other stages may run on the same GPU.
        num_processes: processes that run the stage together, with a GPU each if `on_gpu`.
    """

    folder: Path
    command: tuple[str, ...]
    module: str
    num_threads: int
    on_gpu: bool
    shares_gpu: bool
    num_processes: int = 1

    @property
    def num_gpus(self) -> int:
        """Number of GPUs that the stage uses."""
        return self.num_processes if self.on_gpu else 0

    @classmethod
    def of(
        cls, folder: Path, settings: LauncherSettings, num_threads: int, *, gpus: bool
    ) -> "WorkerRequest":
        """Create the request for the stage in `folder`.

        Args:
            folder: folder of the stage.
            settings: settings of the launcher.
            num_threads: CPU threads of the stage.
            gpus: the cluster has GPUs for this run.
        """
        kind = settings.stage_kind(folder.parent.name)
        on_gpu = gpus and kind.needs_gpu
        return cls(
            folder,
            tuple(settings.worker_command("cuda:0" if on_gpu else "cpu", num_threads)),
            settings.run_module(folder.parent.name),
            num_threads,
            on_gpu,
            on_gpu and settings.jobs_per_gpu > 1,
            settings.gpus_per_stage if kind.multi_process else 1,
        )


def finished(folder: Path, answer: RemoteAnswer) -> Finished:
    """Convert the outcome of a `RemoteAttempt` for the executor."""
    return Finished(folder, answer["status"], answer["message"], answer["cause"])


class RemoteAttempt:
    """One attempt at a stage.

    `run` blocks until the stage ends. If a signal handler or another thread calls `stop`, the stage
    saves its state, and `run` returns soon.
    """

    def __init__(self, request: WorkerRequest, fork_server: ForkServer | None = None) -> None:
        """Prepare the attempt.

        Args:
            request: the stage to run.
            fork_server: server on this machine, if this process runs several attempts in turn.
        """
        self.request, self.fork_server = request, fork_server
        self.process: ForkedWorker | SpawnedWorker | None = None

    def run(self) -> RemoteAnswer:
        """Run the stage. KeyboardInterrupt and SystemExit stop it first, and are raised again."""
        folder = self.request.folder
        if not (folder / FILE_NAME).exists():
            return _failed(
                "mistake",
                f"{socket.gethostname()} cannot read {folder}: --runs-dir, --data-dir and "
                "--raw-dir must be on a file system that all machines share, under the same paths.",
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
        """Ask the stage to save, and wait at most SAVE_S until the worker has ended."""
        self.stop()
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(SAVE_S)

    def _start(self) -> None:
        variables = dict.fromkeys(THREAD_VARIABLES, str(self.request.num_threads))
        if not self.request.on_gpu:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        elif "CUDA_VISIBLE_DEVICES" in os.environ:
            # The cluster has chosen this GPU; the fork server has the variable of an earlier stage.
            variables["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
        if self.fork_server is not None:
            with contextlib.suppress(OSError):  # the server has died
                self.process = self.fork_server.fork(
                    self.request.module, self.request.command, variables
                )
        if self.process is None:
            self.process = SpawnedWorker(self.request.command, variables)
        assert self.process.stdin is not None
        # If the worker has died already, its output ends, which `_answer` handles.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(
                request_line(self.request.folder, shares_gpu=self.request.shares_gpu)
            )
            self.process.stdin.flush()

    def _answer(self, timeout_s: float | None) -> RemoteAnswer:
        """Wait for the worker's answer or exit. Keeps stdin open: closing it stops the stage."""
        assert self.process is not None and self.process.stdout is not None
        output, text, started = self.process.stdout.fileno(), b"", time.monotonic()
        while timeout_s is None or time.monotonic() - started < timeout_s:
            if not select.select([output], [], [], POLL_S)[0]:
                continue
            chunk = os.read(output, 65536)
            text += chunk
            if b"\n" in text:
                answer: Answer = json.loads(text)
                return {
                    "status": answer["status"],
                    "cause": answer["cause"],
                    "message": answer["message"],
                }
            if not chunk:
                code = None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self.process.wait(ENDED_S)
                if code == STOPPED:  # stopped before the stage began
                    return {"status": "stopped", "cause": "", "message": ""}
                return _failed(
                    "lost",
                    f"The worker process on {socket.gethostname()} {describe_exit(code)}; its "
                    f"output is in {self.request.folder / 'log.txt'}",
                )
        return _failed("lost", f"The stage did not stop within {timeout_s:.0f} s.")

    def _end(self) -> None:
        """End the worker and all processes that it has started."""
        assert self.process is not None
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDED_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        wait_for_killed(self.process)
        self.process.stdout.close()


def _failed(cause: FailureCause, message: str) -> RemoteAnswer:
    return {"status": "failed", "cause": cause, "message": message}
