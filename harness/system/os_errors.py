"""What the file system refuses, in words for the person who can put it right."""

import errno

from writers.errors import UserError

FREE = "Free some space there, or name another folder; then run the same command again."
LOCK = "Mount it with locks that hold on this host (nfs: nolock, lustre: localflock); leases do the rest between hosts."
ALLOW = "Make it readable and writable for you, or name another folder."
CURES = {
    errno.ENOSPC: ("The disk is full", FREE),
    errno.EDQUOT: ("The disk quota is used up", FREE),
    errno.EACCES: ("Permission denied", ALLOW),
    errno.EPERM: ("Operation not permitted", ALLOW),
    errno.EROFS: ("The file system is read-only", "Name another folder."),
    errno.ENOTDIR: ("A file is in the way of a folder", "Move it, or name another folder."),
    errno.EEXIST: ("A file is in the way", "Move it, or name another folder."),
    errno.EISDIR: ("A folder is in the way of a file", "Move it, or name another file."),
    errno.ENOLCK: ("The file system gives no locks", LOCK),
    errno.ENOSYS: ("The file system gives no locks", LOCK),
    errno.ENAMETOOLONG: ("The name is too long", "Shorten it."),
}


def explain(error: OSError) -> UserError | None:
    """The error as a UserError that names the file, or None where it is no matter of files and permissions."""
    if error.errno not in CURES:
        return None
    what, cure = CURES[error.errno]
    where = error.filename2 or error.filename
    return UserError(f"{what}: {where}" if where else f"{what}.", cure)
