"""Flush a file to the disk while it is written, so that the fsync at the end is short."""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Self

BYTES_AT_ONCE = 8 * 2**20  # bytes between asynchronous flushes (Linux)
# bytes between flushes on other systems, where a flush blocks its thread and writes a journal entry
BYTES_AT_ONCE_WAITED = 128 * 2**20
SYNC_FILE_RANGE_WRITE = 2  # Linux's flag: start writing, do not wait


class DiskWriter:
    """A thread that flushes a file, so that the writer does not wait for the disk.

    with DiskWriter(handle) as disk:
        while ...:
            ...                 # write some bytes
            disk.advance(end)   # report that the file is written up to `end`
        disk.finish()           # wait until the whole file is on the disk
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._bytes_at_once = BYTES_AT_ONCE if _sync_file_range() else BYTES_AT_ONCE_WAITED
        self._written = self._sent = 0
        self._complete = self._left = False
        self._changed = threading.Condition()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="harness-disk")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._left = True
            self._changed.notify()
        self._thread.join()

    def advance(self, end: int) -> None:
        """Report that the file is written up to `end`.

        Raises OSError, for example for a full disk.
        """
        if self._error is not None:
            raise self._error
        if end < self._sent + self._bytes_at_once:  # too few bytes: do not wake the thread
            return
        with self._changed:
            self._written = end
            self._changed.notify()

    def finish(self) -> None:
        """Wait until everything is on the disk. Raises OSError."""
        with self._changed:
            self._complete = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while self._is_more_to_send():
                begin, self._sent = self._sent, self._written
                self._send(begin, self._sent)
            if self._complete:
                os.fsync(self._handle)
        except OSError as error:
            self._error = error

    def _is_more_to_send(self) -> bool:
        """Wait for more bytes; return False after `finish`, or if the block has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._left
                    or self._complete
                    or self._written >= self._sent + self._bytes_at_once
                )
            )
            return not self._left and not self._complete

    def _send(self, begin: int, end: int) -> None:
        """Start to flush these bytes. The fsync at the end reports errors."""
        if (sync_file_range := _sync_file_range()) is None:
            os.fdatasync(self._handle)
        else:
            sync_file_range(self._handle, begin, end - begin, SYNC_FILE_RANGE_WRITE)


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return Linux's sync_file_range, which runs without the GIL; None on other systems."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function
