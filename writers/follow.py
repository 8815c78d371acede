"""What follows a file while it is written: its digests, and its way to the disk."""

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

CHUNK_BYTES = 2**20         # read at once: stays in the processor's cache until it is hashed
SYNC_BYTES = 128 * 2**20    # sent to the disk at once: not all at the end, and never more waiting in memory than about this


@dataclass(frozen=True)
class Digests:
    sha256: str                 # of the whole file
    groups: tuple[str, ...]     # sha256 of each group of pages


class FileFollower:
    """Reads a file behind its writer: one thread hashes all of it, one its groups of pages, one waits for the disk.

        with FileFollower(handle, group_bytes) as follower:
            ...                                 # write; then, again and again:
            follower.advance(end)               # up to here the file is final
            digests = follower.finish(size)     # it is, to its end
    """

    def __init__(self, handle: int, group_bytes: int) -> None:
        self._handle, self._group_bytes = handle, group_bytes
        self._final = 0             # bytes, from the start on, that will not change
        self._size: int | None = None
        self._left = False          # the writer gave up
        self._changed = threading.Condition()
        self._errors: list[BaseException] = []
        self._whole = hashlib.sha256()
        self._groups: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(work,), name=f"harness-{work.__name__.strip('_')}")
                         for work in (self._hash_all, self._hash_groups, self._sync)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._left = self._size is None or bool(kind)
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def advance(self, final: int) -> None:
        """Up to this byte, the file will not change any more. Raises what a thread raised, such as OSError for a full disk."""
        if self._errors:
            raise self._errors[0]
        with self._changed:
            self._final = final
            self._changed.notify_all()

    def finish(self, size: int) -> Digests:
        """Wait until all of the file is hashed and on the disk. Raises OSError."""
        with self._changed:
            self._final = self._size = size
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return Digests(self._whole.hexdigest(), tuple(self._groups))

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)

    def _hash_all(self) -> None:
        position = 0
        while (final := self._wait_for(position + CHUNK_BYTES)) > position:
            position = self._hash(self._whole, position, final)

    def _hash_groups(self) -> None:
        position = 0
        while (final := self._wait_for(position + self._group_bytes)) > position:
            group = hashlib.sha256()
            position = self._hash(group, position, min(final, position + self._group_bytes))
            self._groups.append(group.hexdigest())

    def _sync(self) -> None:
        position = 0
        while (final := self._wait_for(position + SYNC_BYTES)) > position:
            os.fdatasync(self._handle)
            position = final
        if not self._left:
            os.fsync(self._handle)

    def _wait_for(self, wanted: int) -> int:
        """How far the file is final: at least `wanted`, or else its end; 0 where the writer gave up."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._size is not None or self._final >= wanted)
            return 0 if self._left else self._final

    def _hash(self, digest: "hashlib._Hash", begin: int, end: int) -> int:
        chunk = memoryview(bytearray(CHUNK_BYTES))
        while begin < end:
            if self._left:
                return end
            num_read = os.preadv(self._handle, [chunk[:end - begin]], begin)
            if not num_read:
                raise OSError(f"the file ends at byte {begin:,} while it is read back")
            digest.update(chunk[:num_read])
            begin += num_read
        return end
