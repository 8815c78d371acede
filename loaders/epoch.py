"""One epoch on FFCV's thread, made safe: an error reaches the consumer, a closed epoch leaves nothing behind, and a
batch slot is not filled again before the GPU has read it.

FFCV 1.0.2's own iterator lets the consumer wait for ever when its thread fails, keeps thread and buffers when a loop is
left early (libffcv/ffcv#345), and orders the copy to the GPU only against streams, not against its own next write to
the slot.
"""

import os
import threading
import weakref
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, Full
from typing import Any

import numpy as np
import torch

from loaders.backend import Batch, Epoch, poison
from loaders.ffcv_parts import EpochIterator
from writers.errors import UserError

_LOOK_AGAIN_S = 0.1  # how often a waiting side looks whether the other has ended


class FfcvEpoch(Epoch):
    """Dropping it without `close()`, as a `break` does, also ends its thread."""

    def __init__(self, loader: Any, order: np.ndarray) -> None:
        """`loader`: what EpochIterator reads from FFCV's Loader, and `device`; `order`: what its decoders are given."""
        self._process = os.getpid()
        self._thread = _EpochThread(loader, order)
        # Not __del__: the thread itself keeps the iterator alive, and a finalizer also runs at the interpreter's exit.
        self._end = weakref.finalize(self, self._thread.close)

    def __next__(self) -> Batch:
        if (
            os.getpid() != self._process
        ):  # a fork has no thread but its own: the batch would never come
            raise RuntimeError(
                "This epoch was begun in another process. Open a loader in the process that reads from it."
            )
        return self._thread.take()

    def close(self) -> None:
        self._end()


class _EpochThread(EpochIterator):
    """FFCV's iterator is also its thread. `run` is the thread's side; `take` and `close` are the consumer's."""

    def __init__(self, loader: Any, order: np.ndarray) -> None:
        self.device: torch.device = loader.device
        num_slots = loader.batches_ahead + 2  # those in the queue, one being filled, one being used
        self.copied: list[torch.cuda.Event | None] = [
            None
        ] * num_slots  # the copy out of the slot is done
        self.used: list[torch.cuda.Event | None] = [
            None
        ] * num_slots  # the consumer's work on the slot is done
        self.held: int | None = None  # the slot that the consumer has now
        self.held_batch: Batch | None = None  # that batch, where it is to be poisoned
        self.poison: bool = loader.plan.poison
        self.ended = False
        with self.on_device():
            super().__init__(loader, order)  # ends with self.start()

    def start(self) -> None:
        if (
            self.device.type == "cuda"
        ):  # slots are kept between epochs: the work on their last batches comes first
            for stream in self.cuda_streams:
                stream.wait_stream(torch.cuda.current_stream())
        super().start()

    def run(self) -> None:
        positions: np.ndarray = self.order[:0]
        try:
            with self.on_device():
                batches = list(self.iter_ixes)
                self.loader.ask_for(batches[:1])
                first_slot = self.loader.first_slot
                for number, positions in enumerate(batches):
                    self.loader.ask_for(batches[number + 1 : number + 2])
                    slot = (first_slot + number) % len(self.copied)
                    # Not measured on a GPU yet: FFCV's events make streams wait, but not the CPU that writes the slot.
                    if (copied := self.copied[slot]) is not None:
                        copied.synchronize()
                    batch = self.fill(number, positions, slot)
                    if self.device.type == "cuda":
                        self.copied[slot] = self.cuda_streams[slot].record_event(
                            torch.cuda.Event(blocking=True)
                        )
                    if not self.hand_over((slot, batch)):
                        return
            self.hand_over(None)
        except BaseException as error:  # whatever it is, the consumer is waiting
            if not isinstance(error, UserError) and len(positions):
                samples = self.loader.samples
                first, last = samples.indices[positions[[0, -1]]]
                error.add_note(
                    f"In the batch of samples {first} to {last}, {len(positions)} images, of {samples.path}."
                )
            self.hand_over(error)

    def fill(self, number: int, positions: np.ndarray, slot: int) -> Batch:
        """The batch of these samples, in a slot; where the loader leaves damaged ones out, of the others."""
        batch = self.run_pipeline(number, positions, slot, self.used[slot])
        if damaged := self.loader.damaged():
            if len(damaged) == len(positions):
                raise self.loader.samples.all_damaged(len(positions), damaged[len(positions) - 1])
            if self.device.type == "cuda":  # the copy of what is now decoded once more
                self.cuda_streams[slot].synchronize()
            return self.fill(number, np.delete(positions, list(damaged)), slot)
        return self.loader.arranged(batch)

    def hand_over(self, item: Any) -> bool:
        """Queue `item` for the consumer. Returns False if the consumer has closed the epoch.

        `close` empties the queue, so a `put` that succeeds does not mean that the epoch is open.
        The next slot to fill may be the one that the consumer still has.
        """
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=_LOOK_AGAIN_S)
                break
            except Full:
                pass
        return not self.terminate_event.is_set()

    def take(self) -> Batch:
        """The next batch. Raises what the thread raised, and RuntimeError for an epoch that was closed half-way."""
        if self.ended:
            raise StopIteration
        if self.terminate_event.is_set():
            raise RuntimeError(
                "This epoch is closed: by its close(), by its loader's, or by the loader's next epoch."
            )
        if self.held_batch is not None:
            poison(self.held_batch)
        if (
            self.held is not None and self.device.type == "cuda"
        ):  # behind the poison, which is the last use of the slot
            self.used[self.held] = torch.cuda.current_stream(self.device).record_event()
        item = self.next_item()
        if item is None or isinstance(item, BaseException):
            self.ended = True
            self.close()
            raise item or StopIteration
        self.held, batch = item
        # The next epoch begins with the slot after this one, so that it fills this one last.
        self.loader.first_slot = (self.held + 1) % len(self.copied)
        self.held_batch = batch if self.poison else None
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).wait_stream(self.cuda_streams[self.held])
        return batch

    def next_item(self) -> Any:
        while True:
            alive = self.is_alive()
            try:
                return self.output_queue.get(timeout=_LOOK_AGAIN_S)
            except Empty:
                if not alive:
                    return RuntimeError("The loader's thread ended without a word.")

    def close(self) -> None:
        """End the thread and wait for it, and for its copies."""
        self.terminate_event.set()
        while self.is_alive() and threading.current_thread() is not self:
            try:
                while True:
                    self.output_queue.get_nowait()  # so that a waiting `put` returns at once
            except Empty:
                self.join(_LOOK_AGAIN_S)
        for copied in self.copied:
            if copied is not None:
                copied.synchronize()

    def on_device(self) -> AbstractContextManager:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
