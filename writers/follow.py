"""What follows a file while it is written: the digests of its parts, and its way to the disk."""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

CHUNK_BYTES = 2**20         # read at once: stays in the processor's cache until it is hashed
SYNC_BYTES = 128 * 2**20    # sent to the disk at once: not all at the end, and never much more waiting in memory
MOST_HASHERS = 4            # threads, of which each hashes 1 to 2 GB/s: together as fast as disks are


class FileFollower:
    """Reads a file behind its writer and hashes it, group of pages by group; another thread waits for the disk.

        with FileFollower(handle, group_bytes) as follower:
            ...                                 # write; then, again and again:
            follower.advance(end)               # what is behind the first group and before this byte is final
            digests = follower.finish(size)     # all of it is

    The first group comes last: a beton's first bytes say where its last ones are.
    """

    def __init__(self, handle: int, group_bytes: int) -> None:
        self._handle, self._group_bytes = handle, group_bytes
        self._final = 0
        self._size: int | None = None
        self._left = False              # the writer gave up
        self._changed = threading.Condition()
        self._errors: list[BaseException] = []
        self._digests: dict[int, str] = {}
        self._next_group = 1
        work = [self._hash_groups] * min(MOST_HASHERS, len(os.sched_getaffinity(0))) + [self._sync]
        self._threads = [threading.Thread(target=self._run, args=(function,), name="harness-follow") for function in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._left = self._size is None or kind is not None
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def advance(self, final: int) -> None:
        """Up to this byte, but for the first group, the file will not change. Raises OSError, as of a full disk."""
        if self._errors:
            raise self._errors[0]
        with self._changed:
            self._final = final
            self._changed.notify_all()

    def finish(self, size: int) -> list[str]:
        """Wait until all of the file is hashed and on the disk: sha256 of each group. Raises OSError."""
        with self._changed:
            self._final = self._size = size
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return [self._digests[number] for number in sorted(self._digests)]

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)

    def _hash_groups(self) -> None:
        while (number := self._take_group()) is not None:
            digest, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
            position, end = number * self._group_bytes, (number + 1) * self._group_bytes
            while (final := min(end, self._wait_for(position + CHUNK_BYTES))) > position:
                num_read = os.preadv(self._handle, [chunk[:final - position]], position)
                if not num_read:
                    raise OSError(f"the file ends at byte {position:,} while it is read back")
                digest.update(chunk[:num_read])
                position += num_read
            self._digests[number] = digest.hexdigest()

    def _take_group(self) -> int | None:
        """The next group of which there is something, each once; None: there is no other."""
        with self._changed:
            number = self._next_group
            self._next_group += 1
        if self._wait_for(number * self._group_bytes + 1) > number * self._group_bytes:
            return number
        with self._changed:
            first_is_left = 0 not in self._digests and not self._left
            self._digests.setdefault(0, "")
        return 0 if first_is_left else None

    def _sync(self) -> None:
        position = 0
        while (final := self._wait_for(position + SYNC_BYTES)) > position:
            os.fdatasync(self._handle)
            position = final
        if not self._left:
            os.fsync(self._handle)

    def _wait_for(self, wanted: int) -> int:
        """How far the file is final: at least `wanted`, or else to its end; 0 where the writer gave up."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._size is not None or self._final >= wanted)
            return 0 if self._left else self._final


def digest_of_groups(groups: Sequence[str]) -> str:
    """One digest for a file: of one group its own; of several the sha256 of theirs, each on a line.

    Without this project: split --bytes=64M --filter=sha256sum FILE | cut -c-64 | sha256sum
    """
    return groups[0] if len(groups) == 1 else hashlib.sha256("".join(f"{group}\n" for group in groups).encode()).hexdigest()
