"""Publish a new `.beton` file atomically: complete under its final name with its manifest, or not.

The beton is written under a temporary name in the same folder. When it is complete and on the disk,
an older beton of the same name is removed. Then the new manifest gets its final name, and last the
new beton. If the process is killed at any point, no beton is incomplete under its final name or has
the manifest of another beton. The next writer removes the temporary file of a killed writer.

The temporary file is a lease: its name identifies the host, and its writer renews its modification
time. A writer on the same host is recognized by its lock on the file. On a file system without
locks, or if the writer is on another host, the file is removed only after EXPIRES_S seconds without
renewal. If a writer finds another active writer, it raises an error.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from writers.beton.store import Manifest, manifest_path
from writers.errors import UserError
from writers.lease import BEAT_S, EXPIRES_S, Holder
from writers.lock import locked


@dataclass(frozen=True)
class NewBeton:
    """A beton that is being written.

    Attributes:
        handle: file descriptor of the temporary file, open for reading and writing.
        temporary: path of the temporary file.
        out_file: final path of the beton.
    """

    handle: int
    temporary: Path
    out_file: Path

    def publish(self, manifest: Manifest) -> None:
        """Write the manifest and give both files their final names.

        The beton must be complete and on the disk.

        Raises:
            UserError: another host has removed the temporary file, because this process paused for
                too long.
            OSError: the disk is full or fails.
        """
        write_durably(_temporary_manifest(self.temporary), as_json(manifest))
        with locked(self.out_file.parent):
            self._take_name()
        _sync_folder(self.out_file.parent)

    def publish_link(self, manifest: Manifest, file: Path, handle: int) -> bool:
        """Publish a hard link to `file`, another beton that is open as `handle`.

        The two names are independent: no beton is changed in place, and either name may be removed
        or replaced.

        Returns:
            True if the link was published, False if linking is impossible or `file` was replaced.

        Raises:
            UserError, OSError: as in `publish`.
        """
        linked = _temporary_link(self.temporary)
        write_durably(_temporary_manifest(self.temporary), as_json(manifest))
        # No writer has a lock on the link. Until the link has its final name, another writer would
        # take it for the file of a killed writer and remove it; the folder's lock prevents this.
        with locked(self.out_file.parent):
            try:
                os.link(file, linked)
            except OSError:
                # another file system, no support for links, another owner, or the file is gone
                return False
            if not os.path.samestat(os.fstat(handle), linked.stat()):  # `file` was replaced
                linked.unlink()
                return False
            linked.replace(self.temporary)
            self._take_name()
        _sync_folder(self.out_file.parent)
        return True

    def _take_name(self) -> None:
        if not self.temporary.exists():
            raise UserError(
                f"{self.out_file} was not written: another host took over, because this process "
                f"paused for more than {EXPIRES_S:.0f} s.",
                "Check whether the other host has written it; otherwise run the command again.",
            )
        # The manifest is renamed before the beton. A process killed in between leaves a manifest
        # without a beton, which readers report as a missing beton.
        self.out_file.unlink(missing_ok=True)
        _temporary_manifest(self.temporary).replace(manifest_path(self.out_file))
        self.temporary.replace(self.out_file)


@contextlib.contextmanager
def new_beton(out_file: Path) -> Iterator[NewBeton]:
    """Open a new temporary file inside the block, to be published as `out_file`.

    If the block raises, the file is removed.

    Raises:
        UserError: another writer of `out_file` is active, `out_file` is a folder, its folder is not
            writable, the disk is full, or the file is too large for the file system.
    """
    with _disk_errors(out_file):
        out_file.parent.mkdir(parents=True, exist_ok=True)
        if out_file.is_dir():
            raise UserError(
                f"{out_file} is a folder; the beton needs that name.",
                "Remove it, or write elsewhere with --out.",
            )
        handle, temporary = _open_temporary(out_file)
        stopped = threading.Event()
        beat = threading.Thread(target=_renew_until, args=(stopped, handle), daemon=True)
        beat.start()
        try:
            yield NewBeton(handle, temporary, out_file)
        except BaseException:
            _remove(temporary)
            raise
        finally:
            stopped.set()
            beat.join()
            os.close(handle)


def _renew_until(stopped: threading.Event, handle: int) -> None:
    while not stopped.wait(BEAT_S):
        with contextlib.suppress(OSError):  # tried again after BEAT_S
            os.utime(handle)


def _open_temporary(out_file: Path) -> tuple[int, Path]:
    """Open a new file in the folder of `out_file`, locked while it is open.

    Returns its file descriptor and its path.
    """
    # Without the folder's lock, another writer could remove the new file before it is locked.
    with locked(out_file.parent):
        name = f".{out_file.name}.{_this_host()}-{secrets.token_hex(8)}.writing"
        temporary = out_file.with_name(name)
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            # Look for other writers only after this writer's file exists: if two hosts start at the
            # same time, at least one finds the file of the other.
            _remove_stale(out_file, temporary)
        except BaseException:
            os.close(handle)
            _remove(temporary)
            raise
    return handle, temporary


def _remove_stale(out_file: Path, own: Path) -> None:
    """Remove temporary files of killed writers, except the file `own`.

    Raises UserError if another writer is active.
    """
    for path in out_file.parent.glob(f".{out_file.name}.*.writing"):
        if path == own:
            continue
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if _is_active(file.fileno(), path, own):
                raise UserError(
                    f"Another process is writing {out_file} at this moment.",
                    "Wait for it, or write elsewhere with --out. If it was killed on another host, "
                    f"try again after {EXPIRES_S:.0f} s.",
                )
            _remove(path)


def _is_active(handle: int, path: Path, own: Path) -> bool:
    """Return True if the writer of a temporary file may be alive."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if f".{_this_host()}-" in path.name:
            return False  # a living writer of this host would hold the lock
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        pass
    os.utime(own)  # to compare two times by the clock of the file system
    return own.stat().st_mtime - os.fstat(handle).st_mtime < EXPIRES_S


def _this_host() -> str:
    """Return 12 hex digits that identify this boot of this host in names of temporary files."""
    me = Holder.me()
    return hashlib.sha256(f"{me.host} {me.boot}".encode()).hexdigest()[:12]


def _remove(temporary: Path) -> None:
    for path in (_temporary_manifest(temporary), _temporary_link(temporary), temporary):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors(out_file: Path) -> Iterator[None]:
    """Turn disk errors into UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk that holds {out_file.parent} is full; {out_file.name} was not written.",
                "Free some space, or write elsewhere with --out.",
            ) from error
        if error.errno == errno.EFBIG:
            raise UserError(
                f"{out_file.name} was not written: {out_file.parent} does not support a file "
                "of this size.",
                "See the limits of the file system and `ulimit -f`, or write elsewhere with --out.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"{out_file.parent} cannot be written: {error.strerror}.",
                "Write elsewhere with --out.",
            ) from error
        raise


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and sync it to the disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def as_json(manifest: Manifest) -> bytes:
    """Return a manifest as the content of its file."""
    return (manifest.model_dump_json(indent=1) + "\n").encode()


def _temporary_manifest(temporary: Path) -> Path:
    return temporary.with_suffix(".manifest")


def _temporary_link(temporary: Path) -> Path:
    return temporary.with_suffix(".link")
