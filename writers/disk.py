"""Sends a file to the disk while it is written: not all at the end, and never much more than 128 MiB waiting in memory."""

import os
import threading
from types import TracebackType
from typing import Self

BYTES_AT_ONCE = 128 * 2**20


class DiskWriter:
    """A thread that waits for the disk, so that the writer does not.

        with DiskWriter(handle) as disk:
            ...                     # write; then, again and again:
            disk.advance(end)       # up to here it is written
            disk.finish()           # returns when all of it is on the disk
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._written = self._sent = 0
        self._complete = self._left = False
        self._changed = threading.Condition()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="harness-disk")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._left = True
            self._changed.notify()
        self._thread.join()

    def advance(self, end: int) -> None:
        """Raises OSError, as of a full disk."""
        if self._error is not None:
            raise self._error
        with self._changed:
            self._written = end
            self._changed.notify()

    def finish(self) -> None:
        """Raises OSError."""
        with self._changed:
            self._complete = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while self._is_more_to_send():
                os.fdatasync(self._handle)
            if self._complete:
                os.fsync(self._handle)
        except OSError as error:
            self._error = error

    def _is_more_to_send(self) -> bool:
        """Waits until there is, or until the writer has ended, one way or the other: then False."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._complete or self._written >= self._sent + BYTES_AT_ONCE)
            self._sent = self._written
            return not self._left and not self._complete
