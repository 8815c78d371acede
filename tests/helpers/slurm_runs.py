"""Run stages with the Slurm launcher, and find the processes of its jobs."""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from harness.matrix.stage import Stage
from harness.runner.executor import Run
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import slurm
from harness.runner.retry import RetryPolicy
from tests.helpers.execution import matrix_of


def run_all(
    settings: LauncherSettings,
    options: slurm.Options,
    stages: tuple[Stage, ...],
    observe: Callable[[slurm.SlurmLauncher], None] = lambda _: None,
) -> Run:
    """Run the stages until all are done; call `observe` after each event."""
    with slurm.open(settings, options) as launcher:
        policy = RetryPolicy(first_wait_s=0.1)
        run = Run(matrix_of(*stages), settings.folders, launcher, policy)
        for _ in run.events():
            observe(launcher)
    return run


def pids_of(job_id: str) -> list[int]:
    """Return the processes of a job, or of a task of an array."""
    array, _, task = job_id.partition("_")
    variables = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={task}".encode()}
    if not task:
        variables = {f"SLURM_JOB_ID={array}".encode()}
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variables <= set(environ.read_bytes().split(b"\0")):
                found.append(int(environ.parent.name))
    return found


def command_of(pid: int) -> bytes:
    """Return the command line of a process; empty if the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def kill_processes_of(job_id: str) -> None:
    """Kill all processes of an array's task, as the out-of-memory killer might."""
    for pid in pids_of(job_id):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
