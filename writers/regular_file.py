"""Open files that may be of any kind: a pipe would block, and a device may never end."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def other_kind(path: Path) -> str | None:
    """Return what a path is, such as "a pipe"; None if it is a regular file, or absent."""
    try:
        mode = path.expanduser().stat().st_mode
    except (OSError, RuntimeError, ValueError):  # opening it reports what is wrong
        return None
    return next((kind for is_kind, kind in KINDS if is_kind(mode)), None)


def no_file(path: str | Path) -> str:
    """Describe a path that is not a regular file, in a sentence."""
    kind = other_kind(Path(path))
    return f"{path} is {kind}, not a file." if kind else f"There is no file {path}."


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """Open a regular file for reading, without waiting; `buffering` as in `open`.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device or a folder.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(file, "rb", buffering)


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of bounded size.

    Raises:
        OSError: it cannot be opened, is a pipe, a device or a folder, or has more bytes.
    """
    with open_regular(path, buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {max_bytes:,}", str(path))
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # files of the system state no size
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", str(path))
    return data
