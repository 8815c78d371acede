"""Open files that may be of any kind: a pipe would block, and a device may never end."""

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
        file: a file is accepted.
        folder: a folder is accepted.
        is_checked_on_load: a validator of the setting calls `fault_of` or `existing_file`, because
            the value may also be a name of the package.
    """

    file: bool = True
    folder: bool = False
    is_checked_on_load: bool = False


def fault_of(path: str | Path, *, file: bool = True, folder: bool = False) -> str | None:
    """Describe in a sentence why a path cannot be read as a file or folder, without opening it.

    Args:
        path: an absolute path, or one relative to the current folder.
        file: a file is accepted.
        folder: a folder is accepted.

    Returns:
        None if it can be read, or does not exist.
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
    except ValueError:  # a NUL character, or one that no encoding of file names has
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
    """Return the path of a file that exists. Raises UserError for any other."""
    if (fault := fault_of(path)) is not None:
        raise UserError(fault)
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(no_file(path))
    return file


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
