"""Who works in a stage's folder, also where several hosts share it over NFS: a lease that expires when its host dies.

On one host the operating system's lock (`harness.runner.lock`) settles it and dies with its process. Between hosts a lease does:
a file `lease-NUMBER`, made exclusively, whose time its holder renews. Numbers only rise: whoever finds a lease dead makes
the next number, which one of several can do, and an earlier holder that wakes up sees the higher number and stops. Times
are those of the file system (of the NFS server), so that the clocks of the hosts do not matter.
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

from harness.runner import lock

BEAT_S = 15.0  # how often a holder renews its lease
EXPIRES_S = 120.0  # a lease that has not been renewed for so long is dead: 8 missed beats
PREFIX = "lease-"


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. `boot` names one run of one kernel: containers of a host share it, machines never do."""

    host: str
    boot: str
    pid: int

    @classmethod
    def me(cls) -> "Holder":
        boot = ""
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        host = socket.gethostname()
        return cls(host, boot or host, os.getpid())


@dataclass
class Lease:
    """A lease that this process holds. Renewed by `beat`, which a thread calls."""

    path: Path
    expires_s: float = EXPIRES_S
    renewed_at: float = field(default_factory=time.monotonic)
    _lost: bool = False

    def is_lost(self) -> bool:
        """Whether another host may have taken over: then leave the folder alone."""
        if not self._lost and time.monotonic() - self.renewed_at > self.expires_s / 2:
            self.beat()  # this process was not scheduled for long
        return self._lost

    def beat(self) -> None:
        """Renew the lease, or learn that it is lost. A file server that does not answer is asked again at the next beat."""
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
        """Let others have it at once. The file stays, because numbers only rise; a time of 0 is that of no holder."""
        with suppress(OSError):
            os.utime(self.path, (0, 0))


@contextmanager
def hold(folder: Path, beat_s: float = BEAT_S) -> Iterator[Lease | None]:
    """Hold the folder inside the block. Yields None, at once, where another process of any host holds it."""
    with lock.hold(folder) as locked:
        lease = take(folder, Holder.me()) if locked else None
        if lease is None:
            yield None
            return
        over = threading.Event()
        thread = threading.Thread(target=_keep, args=(lease, over, beat_s), daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            over.set()
            thread.join()
            lease.release()


def take(folder: Path, me: Holder, expires_s: float = EXPIRES_S) -> Lease | None:
    """The folder's lease, or None where it is held elsewhere. The caller holds the folder's lock on this host."""
    known = _newest(folder)
    if (
        known is not None
        and (holder := _holder(known)) is not None
        and holder.boot != me.boot
        and _is_fresh(known, expires_s)
    ):
        return None  # the lease of a process of this host is dead: we have its lock
    path = folder / f"{PREFIX}{(_number(known) if known else 0) + 1:06d}"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return None
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(asdict(me)) + "\n")
    if (
        _newest(folder) != path
    ):  # we saw an old list, and the next number had been used and removed again
        path.unlink(missing_ok=True)
        return None
    for old in _leases(folder):
        if _number(old) < _number(path):
            old.unlink(missing_ok=True)
    return Lease(path, expires_s)


def holder_of(folder: Path) -> Holder | None:
    """Who holds the folder's lease or held it last."""
    known = _newest(folder)
    return _holder(known) if known is not None else None


def is_held(folder: Path) -> bool:
    """Whether some process of any host works in the folder now."""
    if lock.is_held(folder):
        return True
    known = _newest(folder)
    if known is None or (holder := _holder(known)) is None or holder.boot == Holder.me().boot:
        return False
    return _is_fresh(known, EXPIRES_S)


def file_system_time(path: Path) -> float:
    """The time now, in seconds, by the clock that stamps files where `path` lies. Touches `path`."""
    try:
        path.touch()
        return path.stat().st_mtime
    except OSError:  # not ours to write: this host's clock must do
        return time.time()


def _keep(lease: Lease, over: threading.Event, beat_s: float) -> None:
    while not over.wait(beat_s):
        lease.beat()


def _is_fresh(path: Path, expires_s: float) -> bool:
    try:
        with path.open() as file:  # opened: NFS then asks the server and not its cache
            renewed = os.fstat(file.fileno()).st_mtime
    except OSError:
        return False
    return renewed > 0 and file_system_time(path.parent / lock.FILE_NAME) - renewed < expires_s


def _holder(path: Path) -> Holder | None:
    """Who made the lease. One that cannot be read was made this moment, or by a host that died at it: of no host we know."""
    try:
        return Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return Holder("unknown", "unknown", 0)


def _newest(folder: Path) -> Path | None:
    return max(_leases(folder), key=_number, default=None)


def _leases(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [
                folder / entry.name
                for entry in entries
                if entry.name.startswith(PREFIX) and entry.name.removeprefix(PREFIX).isdigit()
            ]
    except OSError:
        return []


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))
