"""Which failures are worth another try, when, and what is kept of them: preemption, lost workers, memory that ran out.

A person's mistake and a bug would fail again, so they are not tried again before the next run.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.runner import stage_state as done
from harness.system.atomic_write import write_atomically, write_json

FILE_NAME = (
    "attempts.json"  # of a stage: [{"cause", "message", "at"}], the attempts that came to nothing
)
Cause = Literal["", "mistake", "bug", "lost", "out_of_memory", "preempted"]


@dataclass(frozen=True)
class Policy:
    """How often a stage is tried again for each cause, and the wait before: first_wait_s, then `factor` times the last."""

    most: int = 3
    first_wait_s: float = 5.0
    factor: float = 4.0

    def wait_s(self, cause: Cause, earlier: Mapping[Cause, int]) -> float | None:
        """Seconds to wait; None: not again. `earlier` counts this run's attempts at the stage that came to nothing.

        A preempted stage has saved its state and goes on from there, so that is never too often.
        """
        if cause == "preempted":
            return self.first_wait_s
        tried = earlier.get("lost", 0) + earlier.get("out_of_memory", 0)
        if cause not in ("lost", "out_of_memory") or tried >= self.most:
            return None
        return float(self.first_wait_s * self.factor**tried)


def note(folder: Path, cause: Cause, message: str) -> None:
    """Keep that an attempt at the stage in `folder` came to nothing, for its result and for `harness status`.

    It is to be tried again, so an error.txt goes: one of several processes may have left it, which knew less than another.
    """
    kept = [
        *_attempts(folder),
        {
            "cause": cause,
            "message": message,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    ]
    with suppress(OSError):  # a full disk must not end the whole run
        (folder / done.ERROR_FILE).unlink(missing_ok=True)
        write_json(folder / FILE_NAME, kept)


def counts(folder: Path) -> dict[str, int]:
    """Cause -> attempts at the stage that came to nothing."""
    return dict(Counter(attempt["cause"] for attempt in _attempts(folder)))


def give_up(folder: Path, message: str) -> None:
    """Leave error.txt, unless the worker has written one that says more. A full disk must not end the whole run."""
    if (folder / done.ERROR_FILE).exists():
        return
    try:
        write_atomically(folder / done.ERROR_FILE, f"{message}\n".encode())
    except OSError as error:
        print(f"{folder / done.ERROR_FILE} could not be written: {error}", file=sys.stderr)


def _attempts(folder: Path) -> list[dict[str, str]]:
    try:
        kept = json.loads((folder / FILE_NAME).read_text())
        return [{"cause": str(attempt["cause"])} | attempt for attempt in kept]
    except (OSError, ValueError, TypeError, KeyError):
        return []
