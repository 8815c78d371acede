"""Give a folder to one process at a time, even if several hosts share it over NFS.

Processes of one host exclude each other by a lock of the operating system (`writers.lock`), which
is released when its process ends. Hosts exclude each other by a lease: a file `lease-NUMBER` that
is created exclusively, and whose modification time the holder renews. Numbers only increase. A
process that finds an expired lease creates the lease of the next number; if several try, only one
succeeds. If the previous holder resumes, it finds the higher number and stops. All times come from
the file system (on NFS, from the server), so that the clocks of the hosts do not matter.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from writers import lock

BEAT_S = 15.0  # seconds between renewals
EXPIRES_S = 120.0  # a lease expires if it is not renewed for this time, after 8 missed renewals
PREFIX = "lease-"


@dataclass(frozen=True)
class Holder:
    """Process that holds a lease.

    Attributes:
        host: host name.
        boot: id of one boot of a machine, or the host name if the kernel has no id. Containers of a
            machine have the same id; two machines never have.
        pid: process id on that host.
    """

    host: str
    boot: str
    pid: int

    @classmethod
    def me(cls) -> "Holder":
        """Return this process."""
        boot = ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        host = socket.gethostname()
        return cls(host, boot or host, os.getpid())


@dataclass
class Lease:
    """Lease held by this process; a thread calls `beat` to renew it.

    Attributes:
        path: file of the lease.
        expires_s: seconds without renewal after which other hosts may take over.
        renewed_at: time of the last renewal by `time.monotonic`.
    """

    path: Path
    expires_s: float = EXPIRES_S
    renewed_at: float = field(default_factory=time.monotonic)
    _lost: bool = False

    def is_lost(self) -> bool:
        """Return True if another host may have taken over. Then do not touch the folder."""
        if not self._lost and time.monotonic() - self.renewed_at > self.expires_s / 2:
            self.beat()  # this process was not scheduled for a long time
        return self._lost

    def beat(self) -> None:
        """Renew the lease, or record that it is lost.

        If the file server does not respond, the next beat tries again.
        """
        try:
            os.utime(self.path)
            self._lost = self._lost or _newest(self.path.parent) != self.path
            self.renewed_at = time.monotonic()
        except FileNotFoundError:
            self._lost = True
        except OSError as error:
            self._lost = (
                self._lost
                or error.errno == errno.ESTALE
                or time.monotonic() - self.renewed_at > self.expires_s
            )

    def release(self) -> None:
        """Free the folder at once.

        The file remains, because numbers only increase. A modification time of 0 marks it as
        released.
        """
        with suppress(OSError):
            os.utime(self.path, (0, 0))


@contextmanager
def hold(folder: Path, beat_s: float = BEAT_S) -> Iterator[Lease | None]:
    """Hold the folder inside the block. Yields None at once if any other process holds it.

    Args:
        folder: the folder, for example of a stage; created if it does not exist.
        beat_s: interval between renewals.
    """
    with lock.hold(folder) as locked:
        lease = take(folder, Holder.me()) if locked else None
        if lease is None:
            yield None
            return
        stopped = threading.Event()
        thread = threading.Thread(target=_renew_until, args=(stopped, lease, beat_s), daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            stopped.set()
            thread.join()
            lease.release()


def take(folder: Path, me: Holder, expires_s: float = EXPIRES_S) -> Lease | None:
    """Create the folder's next lease, or return None if another host holds it.

    The caller must hold the folder's lock on this host.
    """
    newest = _newest(folder)
    if (
        newest is not None
        and (holder := _holder(newest)) is not None
        and holder.boot != me.boot  # this process has the lock, so this host has no other holder
        and _is_fresh(newest, expires_s)
    ):
        return None
    path = folder / f"{PREFIX}{(_number(newest) if newest else 0) + 1:06d}"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return None
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(asdict(me)) + "\n")
    if _newest(folder) != path:
        # The first listing was outdated: this number was used, and its file removed, before.
        path.unlink(missing_ok=True)
        return None
    for old in _leases(folder):
        if _number(old) < _number(path):
            old.unlink(missing_ok=True)
    return Lease(path, expires_s)


def holder_of(folder: Path) -> Holder | None:
    """Return the current or last holder of the folder; None if there was none."""
    newest = _newest(folder)
    return _holder(newest) if newest is not None else None


def is_held(folder: Path) -> bool:
    """Return True if a process of any host works in the folder now."""
    if lock.is_held(folder):
        return True
    newest = _newest(folder)
    if newest is None or (holder := _holder(newest)) is None or holder.boot == Holder.me().boot:
        return False
    return _is_fresh(newest, EXPIRES_S)


def file_system_time(path: Path) -> float:
    """Return the current time in seconds by the clock of the file system of `path`.

    The file `path` is touched. If that is impossible, the time is that of this host's clock.
    """
    try:
        path.touch()
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _renew_until(stopped: threading.Event, lease: Lease, beat_s: float) -> None:
    while not stopped.wait(beat_s):
        lease.beat()


def _is_fresh(path: Path, expires_s: float) -> bool:
    """Return True if the lease was renewed less than `expires_s` ago.

    A time far in the future is treated as expired: the server's clock was set back, or the folder
    was copied with its times. If the holder is alive, it renews the lease at its next beat.
    """
    try:
        with path.open() as file:  # opening makes NFS query the server instead of its cache
            renewed = os.fstat(file.fileno()).st_mtime
    except OSError:
        return False
    age = file_system_time(path.parent / lock.FILE_NAME) - renewed
    return renewed > 0 and abs(age) < expires_s


def _holder(path: Path) -> Holder | None:
    """Read the holder of a lease.

    If a lease is unreadable, it is being written, or its host died while it wrote the file. The
    result is then an unknown host. None means that the file does not exist.
    """
    try:
        return Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return Holder("unknown", "unknown", 0)


def _newest(folder: Path) -> Path | None:
    return max(_leases(folder), key=_number, default=None)


def _leases(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [
                folder / entry.name
                for entry in entries
                if entry.name.startswith(PREFIX) and entry.name.removeprefix(PREFIX).isdecimal()
            ]
    except OSError:
        return []


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))
