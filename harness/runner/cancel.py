"""Stop a running recipe from another terminal or host, through a file that its runs check."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from writers.lease import file_system_time

POLL_S = 1.0


def file_of(runs: Path, recipe: str) -> Path:
    """Return the file whose modification requests a stop of the recipe's runs."""
    return runs / "cancel" / recipe


def request(runs: Path, recipe: str) -> None:
    """Request a stop of every current run of the recipe. Later runs are not affected."""
    path = file_of(runs, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@dataclass
class Watch:
    """Callable that checks whether a stop was requested after this object was created.

    Compares times by the file system's clock, because the request may come from another host.

    Attributes:
        path: file whose modification requests the stop; see `file_of`.
        started: creation time of this object, by the file system's clock.
        polled_at: monotonic time of the last check of the file.
    """

    path: Path
    started: float = field(init=False)
    polled_at: float = 0.0

    def __post_init__(self) -> None:
        """Record the current time of the file system."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.started = file_system_time(self.path.parent / ".clock")

    def __call__(self) -> bool:
        """Return True if a stop was requested. Returns False within a second of the last check."""
        if time.monotonic() - self.polled_at < POLL_S:
            return False
        self.polled_at = time.monotonic()
        try:
            return self.path.stat().st_mtime > self.started
        except OSError:
            return False
