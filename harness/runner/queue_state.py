"""Record why a stage waits in a cluster's queue, for `harness status` and the live table."""

import time
from contextlib import suppress
from pathlib import Path

FILE_NAME = "queue.txt"  # in the stage's folder
EXPIRES_S = 120.0  # an older record is that of a run that has ended; renewed every few seconds


def write(folder: Path, text: str) -> None:
    """Record the state of a stage's job. A full disk must not end the run."""
    with suppress(OSError):
        (folder / FILE_NAME).write_text(f"{text}\n")


def clear(folder: Path) -> None:
    """Delete the record, because the job runs or has ended."""
    with suppress(OSError):
        (folder / FILE_NAME).unlink(missing_ok=True)


def read(folder: Path) -> str:
    """Return the state of the stage's job; empty if it does not wait in a queue."""
    try:
        path = folder / FILE_NAME
        if time.time() - path.stat().st_mtime > EXPIRES_S:
            return ""
        return path.read_text().strip()
    except OSError:
        return ""
