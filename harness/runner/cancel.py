"""How a running recipe is asked to stop from another terminal or host: a file that every `harness run` of it looks at."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from harness.runner.lease import file_system_time

LOOK_EVERY_S = 1.0


def file_of(runs: Path, recipe: str) -> Path:
    return runs / "cancel" / recipe


def request(runs: Path, recipe: str) -> None:
    """Ask every run of the recipe that is under way to stop. Later ones are not concerned."""
    path = file_of(runs, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@dataclass
class Watch:
    """Whether a request has come since this was made. By the file system's clock: it may come from another host."""

    path: Path
    started: float = field(init=False)
    looked_at: float = 0.0

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.started = file_system_time(self.path.parent / ".clock")

    def __call__(self) -> bool:
        """Looks once a second at most."""
        if time.monotonic() - self.looked_at < LOOK_EVERY_S:
            return False
        self.looked_at = time.monotonic()
        try:
            return self.path.stat().st_mtime > self.started
        except OSError:
            return False
