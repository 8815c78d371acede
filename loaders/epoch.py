"""Run one epoch on FFCV's thread, with error reporting, clean shutdown and safe slot reuse.

Errors reach the consumer, a closed epoch leaves no thread or buffer, and a batch slot is not filled
again before the GPU has read it. FFCV 1.0.2's own iterator blocks the consumer forever if its
thread fails, and keeps thread and buffers if a loop is left early (libffcv/ffcv#345). It makes GPU
streams wait for the copy to the GPU, but may overwrite the slot before the copy is done.
"""

import os
import threading
import weakref
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, Full
from typing import Any

import numpy as np
import torch

from loaders.backend import Batch, Epoch, debug_fill
from loaders.ffcv_parts import EpochIterator
from writers.errors import UserError
from writers.text_names import counted

_POLL_S = 0.1  # seconds between checks that the other thread still runs
# torch assigns the streams of each priority in turn from a pool of 32. Captures of CUDA graphs,
# such as those of torch.compile, use the default priority. If the loader used such a stream, its
# copies could become part of a graph.
STREAM_PRIORITY = -1


class FfcvEpoch(Epoch):
    """Epoch of the ffcv backend.

    Dropping it without `close()`, as `break` does, also ends its thread.
    """

    def __init__(self, loader: Any, order: np.ndarray) -> None:
        """Start the thread.

        Args:
            loader: object with the attributes that EpochIterator reads from FFCV's Loader, and
                `device`.
            order: int64 [M], positions of this rank's samples, passed to the decoders in batches.
        """
        self._process = os.getpid()
        self._thread = _EpochThread(loader, order)
        # A finalizer instead of __del__ on the thread: a running thread keeps itself alive, and a
        # finalizer also runs when the interpreter exits.
        self._end = weakref.finalize(self, self._thread.close)

    def __next__(self) -> Batch:
        # A forked process has no such thread, so it would wait forever.
        if os.getpid() != self._process:
            raise RuntimeError(
                "This epoch was begun in another process. Open a loader in the process that reads "
                "from it."
            )
        batch: Batch = self._thread.get()
        return batch

    def close(self) -> None:
        """End the thread. May be called more than once."""
        self._end()


class _EpochThread(EpochIterator):  # type: ignore[misc]  # FFCV is untyped
    """Thread that decodes the batches of an epoch; FFCV's EpochIterator is a thread.

    The thread calls `run`; the consumer calls `get` and `close`.
    """

    def __init__(self, loader: Any, order: np.ndarray) -> None:
        self.device: torch.device = loader.device
        num_slots = loader.batches_ahead + 2  # queued slots, one being filled, one being used
        # Events of each slot. `copied`: its copy to the device is done. `used`: the consumer's work
        # on it is done.
        self.copied: list[torch.cuda.Event | None] = [None] * num_slots
        self.used: list[torch.cuda.Event | None] = [None] * num_slots
        # Slot that the consumer uses now: at first that of the last epoch's last batch, which stays
        # valid until a batch of this epoch is requested.
        self.current_slot = (loader.first_slot - 1) % num_slots
        self.current_batch: Batch | None = None  # batch to overwrite, if plan.poison is set
        self.poison: bool = loader.plan.poison
        self.ended = False
        with self.on_device():
            super().__init__(loader, order)  # ends with self.start()

    def start(self) -> None:
        # Slots are reused between epochs, so wait for the GPU's work on their last batches.
        if self.device.type == "cuda":
            self.cuda_streams = [
                torch.cuda.Stream(self.device, STREAM_PRIORITY) for _ in self.copied
            ]
            for stream in self.cuda_streams:
                stream.wait_stream(torch.cuda.current_stream())
        super().start()

    def run(self) -> None:
        positions: np.ndarray = self.order[:0]
        try:
            with self.on_device():
                batches = list(self.iter_ixes)
                self.loader.prefetch(batches[:1])
                first_slot = self.loader.first_slot
                for number, positions in enumerate(batches):
                    self.loader.prefetch(batches[number + 1 : number + 2])
                    slot = (first_slot + number) % len(self.copied)
                    # FFCV's events make streams wait, but not this thread, which writes the slot.
                    # The time of this wait was not measured on a GPU yet.
                    if (copied := self.copied[slot]) is not None:
                        copied.synchronize()
                    batch = self.fill(number, positions, slot)
                    if self.device.type == "cuda":
                        self.copied[slot] = self.cuda_streams[slot].record_event(
                            torch.cuda.Event(blocking=True)
                        )
                    if not self.put((slot, batch)):
                        return
            self.put(None)
        except BaseException as error:  # the consumer would wait forever if nothing were queued
            if not isinstance(error, UserError) and len(positions):
                samples = self.loader.samples
                first, last = samples.indices[positions[[0, -1]]]
                error.add_note(
                    f"In the batch of samples {first} to {last}, "
                    f"{counted(len(positions), 'image')}, of {samples.path}."
                )
            self.put(error)

    def fill(self, number: int, positions: np.ndarray, slot: int) -> Batch:
        """Decode the samples of batch `number` into a slot. positions: int64 [B].

        If damaged samples are skipped, the others are decoded again without them.
        """
        on_gpu = self.device.type == "cuda"
        with torch.cuda.stream(self.cuda_streams[slot]) if on_gpu else nullcontext():
            if (used := self.used[slot]) is not None:
                used.wait()
            batch = self.run_pipeline(number, positions, slot, None)
        if corrupt := self.loader.corrupt_rows():
            if len(corrupt) == len(positions):
                raise self.loader.samples.all_corrupt_error(
                    len(positions), corrupt[len(positions) - 1]
                )
            if on_gpu:  # wait for the copy out of the slot
                self.cuda_streams[slot].synchronize()
            return self.fill(number, np.delete(positions, list(corrupt)), slot)
        arranged: Batch = self.loader.split_crops(batch)
        return arranged

    def put(self, item: Any) -> bool:
        """Queue `item` for the consumer. Returns False if the consumer has closed the epoch.

        The result is checked after queueing, because `close` empties the queue: `item` may have
        found a place although the epoch is closed. The next slot must not be filled then, since the
        consumer may still use it.
        """
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=_POLL_S)
                break
            except Full:
                pass
        return not self.terminate_event.is_set()

    def get(self) -> Batch:
        """Return the next batch.

        Raises:
            StopIteration: the epoch has ended.
            RuntimeError: the epoch was closed early.
            BaseException: the error that ended the thread.
        """
        if self.ended:
            raise StopIteration
        if self.terminate_event.is_set():
            raise RuntimeError(
                "This epoch is closed: by its close(), by its loader's, or by the loader's next "
                "epoch."
            )
        if self.current_batch is not None:
            debug_fill(self.current_batch)
        # Record the event after the debug fill, which is the last use of the slot.
        if self.device.type == "cuda":
            self.used[self.current_slot] = torch.cuda.current_stream(self.device).record_event()
        item = self.next_item()
        if item is None or isinstance(item, BaseException):
            self.ended = True
            self.close()
            raise item or StopIteration
        batch: Batch
        self.current_slot, batch = item
        # The consumer may still use this slot when the next epoch starts. That epoch begins with
        # the slot after it, so it fills this slot last.
        self.loader.first_slot = (self.current_slot + 1) % len(self.copied)
        self.current_batch = batch if self.poison else None
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).wait_stream(self.cuda_streams[self.current_slot])
        return batch

    def next_item(self) -> Any:
        while True:
            alive = self.is_alive()
            try:
                return self.output_queue.get(timeout=_POLL_S)
            except Empty:
                if not alive:
                    return RuntimeError("The loader's thread ended without an error message.")

    def close(self) -> None:
        """Stop the thread; wait for its end and, once, for its copies to the device.

        FFCV's finalizer calls it again when the thread is collected. That may be during the capture
        of a CUDA graph, which waiting for the GPU would make invalid.
        """
        if not hasattr(self, "terminate_event"):  # FFCV's constructor failed
            return
        self.terminate_event.set()
        while self.is_alive() and threading.current_thread() is not self:
            try:
                while True:
                    self.output_queue.get_nowait()  # so that a waiting `put` returns at once
            except Empty:
                self.join(_POLL_S)
        for slot, copied in enumerate(self.copied):
            self.copied[slot] = None
            if copied is not None:
                copied.synchronize()

    def on_device(self) -> AbstractContextManager[None]:
        if self.device.type == "cuda":
            return torch.cuda.device(self.device)
        return nullcontext()
