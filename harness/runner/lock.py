"""One worker of this host per stage folder: an operating-system lock that dies with the process that holds it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_NAME = "lock"


@contextmanager
def hold(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock inside the block. Yields False, at once, where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(
            handle
        )  # and with it the lock; the file stays, so that all who come lock the same one


def is_held(folder: Path) -> bool:
    """Whether some process works in the folder now."""
    try:
        handle = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
