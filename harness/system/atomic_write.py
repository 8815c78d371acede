"""Atomic writes: a reader sees either the old or the complete new content."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically and durably. NaN and infinity raise ValueError."""
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file in the same folder, sync it to the disk, then rename it.

    Raises:
        OSError: With the path, even if the failing call does not report one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        # write and fsync do not report the file.
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
