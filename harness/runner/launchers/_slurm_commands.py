"""Call Slurm's commands squeue and scancel, with a time limit."""

import subprocess
import time
from dataclasses import dataclass

COMMAND_TIMEOUT_S = 10.0  # limit of each Slurm command
COMPLETING_S = 5.0  # wait for the final state of a job that is completing


@dataclass(frozen=True)
class QueuedJob:
    """State of a job in Slurm's queue, with the reason why it waits."""

    state: str
    reason: str


def queue() -> dict[str, QueuedJob] | None:
    """Return job id -> state of the user's jobs in the queue; None if Slurm does not respond.

    Uses squeue, because sacct needs an accounting database.
    """
    # %i is 12_3 for a task of an array; %A is a plain number. For a single job they are equal.
    lines = _run("squeue", "--me", "--noheader", "--array", "--format=%i|%A|%T|%r")
    if lines is None:
        return None
    jobs = {}
    for line in lines:
        number, plain_number, state, reason = line.split("|", 3)
        jobs[number] = jobs[plain_number] = QueuedJob(state, reason)
    return jobs


def is_cancelled(job_id: str) -> bool:
    """Return True if the job has ended in the state CANCELLED.

    slurmctld keeps ended jobs for a while (MinJobAge, 5 minutes by default).
    """
    deadline = time.monotonic() + COMPLETING_S
    while True:
        lines = _run("squeue", f"--jobs={job_id}", "--states=all", "--noheader", "--format=%T")
        states = [line.strip() for line in lines or ()]
        if "COMPLETING" not in states or time.monotonic() > deadline:
            return "CANCELLED" in states
        time.sleep(0.2)


def scancel(*arguments: str) -> None:
    """Call scancel; a failure is ignored."""
    _run("scancel", *arguments)


def _run(*command: str) -> list[str] | None:
    """Return the lines a Slurm command prints; None if it fails or exceeds its time limit."""
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return ended.stdout.splitlines()
