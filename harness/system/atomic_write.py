"""Atomic writes: a reader sees either the old or the complete new content."""

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically. NaN and infinity raise ValueError."""
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes to a file, atomically; see `open_atomically`."""
    with open_atomically(path) as file:
        file.write(data)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file in the same folder; sync it and rename it to `path` at the end.

    If the block raises, the temporary file is deleted. The umask determines who may read the file.
    A pipe or a device is not replaced. The folder is not synced, so after a power failure the file
    may have its old content.

    Raises:
        OSError: A call failed. The error has the path, even if the failing call gives none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.name:  # an empty path
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    _refuse_special_file(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # Errors of write and fsync have no path.
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def _refuse_special_file(path: Path) -> None:
    """Raise OSError if the path is a pipe, a socket or a device, such as /dev/null."""
    try:
        mode = path.lstat().st_mode
    except OSError:  # opening the temporary file will raise a clear error
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
