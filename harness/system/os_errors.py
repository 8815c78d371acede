"""Translate errors of the file system into messages that name a fix."""

import errno
from pathlib import Path

from writers.errors import UserError

FREE = "Free some space there, or use another folder; then run the same command again."
LOCK = (
    "Mount it with locks that are local to this host (nfs: nolock, lustre: localflock); "
    "leases work between hosts."
)
SERVER = "Check the device or the mount, then run the same command again."
ALLOW = "Make it readable and writable, or use another folder."
FIXES = {
    errno.ENOSPC: ("The disk is full", FREE),
    errno.EDQUOT: ("The disk quota is used up", FREE),
    errno.EACCES: ("Permission denied", ALLOW),
    errno.EPERM: ("Operation not permitted", ALLOW),
    errno.EROFS: ("The file system is read-only", "Use another folder."),
    errno.ENOTDIR: ("A part of the path is a file", "Move the file, or use another folder."),
    errno.EEXIST: ("A file of this name exists", "Move it, or use another folder."),
    errno.EISDIR: ("The path is a folder", "Move the folder, or name a file."),
    errno.ENOLCK: ("The file system does not support locks", LOCK),
    errno.ENOSYS: ("The file system does not support locks", LOCK),
    errno.ENAMETOOLONG: ("The name is too long", "Shorten it."),
    errno.EIO: ("The disk or the file server reports an error", SERVER),
    errno.ESTALE: ("The file server has replaced the file", SERVER),
    errno.ETIMEDOUT: ("The file server does not respond", SERVER),
    errno.EMFILE: ("Too many files are open", "Raise the limit with ulimit -n 4096."),
    errno.EFBIG: (
        "The file is larger than allowed",
        "Use another folder, or raise ulimit -f.",
    ),
    errno.ELOOP: ("Links lead back to themselves", "Remove or correct them."),
    errno.ENXIO: ("A socket, pipe or device is not a file", "Use a file."),
}
# Beginning of the message of pathlib's RuntimeError -> message and fix for the user.
PATHLIB_FIXES = {
    "Symlink loop": ("Links lead back to themselves", "Remove or correct them."),
    "Could not determine home directory": ("~ names no user", "Correct the path."),
}


def explain(error: OSError | RuntimeError) -> UserError | None:
    """Return a UserError with a fix, and the path if the error has one; None for other errors."""
    if isinstance(error, RuntimeError):
        for begin, (problem, fix) in PATHLIB_FIXES.items():
            if str(error).startswith(begin):
                place = str(error).removeprefix(begin).strip(". ")
                return UserError(f"{problem} {place}".rstrip() + ".", fix)
        return None
    if error.errno == errno.ENOENT and _is_folder_gone():
        return UserError(
            "The working directory no longer exists.", "Change to another one, then run it again."
        )
    if error.errno not in FIXES:
        return None
    problem, fix = FIXES[error.errno]
    path = error.filename2 or error.filename
    return UserError(f"{problem}: {path}" if path else f"{problem}.", fix)


def of_path(error: OSError | RuntimeError) -> UserError | None:
    """Return a UserError for any error that names a path, such as a new file in /proc.

    Call it for errors of paths that were given to a command. Returns None for an error without a
    path, which is a bug.
    """
    if isinstance(error, RuntimeError):
        return None
    path = error.filename2 or error.filename
    if not path:
        return None
    return UserError(
        f"{error.strerror or 'An error of the file system'}: {path}",
        "Check the path, or use another folder: some, such as /proc, take no new files.",
    )


def _is_folder_gone() -> bool:
    """Return True if the working directory was removed."""
    try:
        Path.cwd()
    except OSError:
        return True
    return False
