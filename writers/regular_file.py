"""Open only regular files: reading a pipe would block, and a device may never end."""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from writers.errors import UserError

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class InputPath:
    """Marks a setting that names an input: `Annotated[str, InputPath(...)]`.

    Attributes:
        file: True if a file is accepted.
        folder: True if a folder is accepted.
        is_checked_on_load: True if a validator of the setting calls `fault_of` or `existing_file`.
            It does so if the value may also be a name that is not a path, such as `reference`.
    """

    file: bool = True
    folder: bool = False
    is_checked_on_load: bool = False


def fault_of(path: str | Path, *, file: bool = True, folder: bool = False) -> str | None:
    """Describe in a sentence why a path is not a file or folder that can be read.

    The path is not opened.

    Args:
        path: absolute, or relative to the current folder.
        file: True if a file is accepted.
        folder: True if a folder is accepted.

    Returns:
        None if the path can be read, or does not exist.
    """
    wanted = "a file" if not folder else "a folder" if not file else "a file or a folder"
    if not str(path):
        return f"An empty text is not the name of {wanted}."
    try:
        found = Path(path).expanduser()
        mode = found.stat().st_mode
    except FileNotFoundError:
        return None
    except RuntimeError:
        return f"{path} is in the home folder of an unknown user."
    except ValueError:  # a NUL character, or one that file names cannot encode
        return f"{str(path)!r} cannot be the name of {wanted}."
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"{path} is a link that leads back to itself."
        return f"{path} cannot be read: {error.strerror or error}."
    is_folder = stat.S_ISDIR(mode)
    if not (folder if is_folder else file and stat.S_ISREG(mode)):
        kind = next((kind for is_kind, kind in KINDS if is_kind(mode)), "a file")
        return f"{path} is {kind}, not {wanted}."
    if not os.access(found, os.R_OK | os.X_OK if is_folder else os.R_OK):
        return f"{path} cannot be read: {os.strerror(errno.EACCES)}."
    return None


def existing_file(path: str) -> Path:
    """Return the path if it is an existing file. Raises UserError otherwise."""
    if (fault := fault_of(path)) is not None:
        raise UserError(fault)
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(no_file(path))
    return file


def other_kind(path: Path) -> str | None:
    """Describe what a path is, such as "a pipe"; None for a regular file, or if stat fails."""
    try:
        mode = path.expanduser().stat().st_mode
    except (OSError, RuntimeError, ValueError):  # opening it reports what is wrong
        return None
    return next((kind for is_kind, kind in KINDS if is_kind(mode)), None)


def no_file(path: str | Path) -> str:
    """Describe in a sentence that a path is not a regular file, or does not exist."""
    kind = other_kind(Path(path))
    return f"{path} is {kind}, not a file." if kind else f"There is no file {path}."


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """Open a regular file for reading, without waiting. `buffering` is that of `open`.

    Raises:
        OSError: the file cannot be opened, or is a pipe, a device or a folder.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(file, "rb", buffering)


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`.

    Raises:
        OSError: the file cannot be opened, is a pipe, a device or a folder, or is larger.
    """
    with open_regular(path, buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {max_bytes:,}", str(path))
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # files such as those in /proc have a size of 0
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", str(path))
    return data
