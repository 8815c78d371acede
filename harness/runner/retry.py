"""Decide which failures are retried and when, and record failed attempts in the stage's folder.

Preemption, lost workers, exhausted memory and required restarts are retried. User errors and bugs
would fail again, so they are not retried before the next run. Nor are stages whose job a person
cancelled.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from harness.matrix.stage import Stage
from harness.runner import stage_state
from harness.system.atomic_write import write_atomically, write_json

FILE_NAME = "attempts.json"  # list of FailedAttempt
# mistake: a UserError; lost: the worker or one of its processes died; restart: see
# RestartRequiredError; cancelled: a person cancelled the stage's job with Slurm's scancel.
FailureCause = Literal[
    "", "mistake", "bug", "lost", "out_of_memory", "restart", "preempted", "cancelled"
]
# Causes with a limited number of retries. Retries after preemption are not limited.
RETRIED: tuple[FailureCause, ...] = ("lost", "out_of_memory", "restart")


class FailedAttempt(TypedDict):
    """Record of an attempt at a stage that did not finish."""

    cause: FailureCause
    message: str
    at: str  # ISO 8601, UTC


@dataclass(frozen=True)
class RetryPolicy:
    """Number of retries of a stage within a run, and the wait before each.

    Attributes:
        max_retries: retries after lost workers, exhausted memory and required restarts, together.
        first_wait_s: wait before the first retry, and before every retry after preemption. There is
            no wait after a required restart.
        factor: ratio of each further wait to the previous wait.
    """

    max_retries: int = 3
    first_wait_s: float = 5.0
    factor: float = 4.0

    def wait_s(self, cause: FailureCause, earlier: Mapping[FailureCause, int]) -> float | None:
        """Return the seconds to wait before the next attempt; None if there is no retry.

        A preempted stage has saved its state and resumes from it, so it is always retried.

        Args:
            cause: cause of the last failure.
            earlier: number of earlier failed attempts at the stage in this run, by cause.
        """
        if cause == "preempted":
            return self.first_wait_s
        num_retries = sum(earlier.get(retried, 0) for retried in RETRIED)
        if cause not in RETRIED or num_retries >= self.max_retries:
            return None
        if cause == "restart":  # waiting would not help
            return 0.0
        return float(self.first_wait_s * self.factor**num_retries)


def record_attempt(folder: Path, cause: FailureCause, message: str) -> None:
    """Record a failed attempt that will be retried, for the result and for `harness status`.

    Deletes error.txt, which one of several processes may have written with a less precise cause.
    """
    attempt: FailedAttempt = {
        "cause": cause,
        "message": message,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    attempts = [*_attempts(folder), attempt]
    with suppress(OSError):  # a full disk must not end the whole run
        (folder / stage_state.ERROR_FILE).unlink(missing_ok=True)
        write_json(folder / FILE_NAME, attempts)


def counts(folder: Path) -> dict[str, int]:
    """Count the failed attempts at a stage by cause."""
    return dict(Counter(attempt["cause"] for attempt in _attempts(folder)))


def total(stages: Iterable[Stage], runs: Path) -> int:
    """Count the failed attempts at all stages.

    Makes no Path for stages without failed attempts: making 100,000 paths takes three seconds.
    """
    return sum(
        sum(counts(stage.folder(runs)).values())
        for stage in stages
        if os.access(f"{runs}/stages/{stage.kind}/{stage.key}/{FILE_NAME}", os.F_OK)
    )


def give_up(folder: Path, message: str) -> None:
    """Write error.txt unless the worker has written a more detailed one.

    An OSError is printed and not raised, because a full disk must not end the whole run.
    """
    if (folder / stage_state.ERROR_FILE).exists():
        return
    try:
        write_atomically(folder / stage_state.ERROR_FILE, f"{message}\n".encode())
    except OSError as error:
        print(f"Cannot write {folder / stage_state.ERROR_FILE}: {error}", file=sys.stderr)


def _attempts(folder: Path) -> list[FailedAttempt]:
    try:
        attempts: list[FailedAttempt] = json.loads((folder / FILE_NAME).read_text())
        return [attempt for attempt in attempts if isinstance(attempt["cause"], str)]
    except (OSError, ValueError, TypeError, KeyError):
        return []
