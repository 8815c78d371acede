"""Record why a stage waits in a cluster's queue, for `harness status` and the live table."""

import time
from contextlib import suppress
from pathlib import Path

FILE_NAME = "queue.txt"  # in the stage's folder
# Records are renewed every few seconds. An older record is ignored: its run has ended.
EXPIRES_S = 120.0


def write(folder: Path, text: str) -> None:
    """Record the state of a stage's job. Ignores a full disk, which must not end the run."""
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
