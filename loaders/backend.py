"""Interface of the loader backends in `loaders/backends/`, and the parts that they share."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NoReturn, Self

import numpy as np
import torch

from loaders.closed_on_exit import ClosedOnExit
from loaders.plan import LoaderPlan, whole_number
from loaders.reader import Samples
from writers.errors import UserError

# A batch is (images, labels). Images are [B, 3, R, R] in channels_last, of the plan's dtype. Labels
# are int64 [B]; int8 [B, K] for multi-label files: 1 present, 0 difficult, -1 absent; or
# probabilities, float32 [B, K], if images are mixed.
Batch = tuple[torch.Tensor, torch.Tensor]
DEBUG_FILL_VALUE = 77  # pixel value that overwrites an expired batch


class Epoch(ClosedOnExit):
    """One pass over the samples.

    It is an iterator, and a context manager that ends background work on exit.

    A batch is valid until the next one is requested; then its memory is reused. Clone tensors that
    must live longer.
    """

    @abstractmethod
    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
            UserError: an image does not decode and the plan's `on_corrupt` is "raise", or no image
                of the batch does; the message names sample and file.
            RuntimeError: the epoch is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """End the epoch. May be called more than once."""

    def wait(self) -> Batch:
        """Wait for the next batch, without the augmentations that `finish` applies."""
        return next(self)

    def finish(self, batch: Batch) -> Batch:
        """Apply the plan's augmentations to the batch that `wait` returned last.

        `next` calls `wait`, then `finish`. Training calls the two itself, to time each.
        """
        return batch

    def __iter__(self) -> Self:
        return self


class Loader(ClosedOnExit):
    """Loader of the samples that a plan selects from a `.beton` file."""

    def __init__(self, plan: LoaderPlan, samples: Samples) -> None:
        self.plan, self.samples = plan, samples
        self.skipped: dict[
            int, UserError
        ] = {}  # index in the file -> error of an image that on_corrupt: skip leaves out

    def epoch(self, epoch: int, resolution: int | None = None, start_batch: int = 0) -> Epoch:
        """Start an epoch and close the previous one.

        Args:
            epoch: number of the epoch; with the plan's seed it decides order, crops and flips.
            resolution: R of the batches. None means the plan's resolution.
            start_batch: batches to skip at the start, at no cost; the remaining batches equal those
                of the full epoch. `len(loader)` skips all batches.

        Raises:
            UserError: start_batch is not in [0, len(loader)], or a number is not whole.
        """
        epoch, start_batch = whole_number("epoch", epoch), whole_number("start_batch", start_batch)
        order = self.samples.order(self.plan, epoch, start_batch)
        return self.start(order, epoch, resolution or self.plan.resolution)

    @abstractmethod
    def start(self, order: np.ndarray, epoch: int, resolution: int) -> Epoch:
        """Start an epoch over given samples and close the previous one.

        Args:
            order: int64 [M], positions of this rank's samples; slices of `plan.local_batch_size`
                are the batches.
            epoch: number of the epoch, which decides crops and flips.
            resolution: R of the batches.

        Raises:
            RuntimeError: the loader is closed, or was opened in another process.
        """

    @abstractmethod
    def close(self) -> None:
        """Release threads, buffers and the file. May be called more than once."""

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: threads, buffers and the open file belong to a process.

        Raises:
            UserError: always.
        """
        raise UserError(
            "A loader cannot be pickled or copied.",
            "Pickle its plan, and open a loader of it in each process.",
        )

    @property
    def num_samples(self) -> int:
        """Number of samples over all ranks, after the plan's view and relabeling."""
        return len(self.samples)

    @property
    def multi_label(self) -> bool:
        """True if each image has a label for each class."""
        return self.samples.multi_label

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, after relabeling."""
        return self.samples.classes

    def __len__(self) -> int:
        """Number of batches of this rank in an epoch."""
        return self.samples.num_batches(self.plan)


class PlainEpoch(Epoch):
    """Epoch that takes its batches from a generator, for backends without a background thread."""

    def __init__(self, batches: Iterator[Batch], poison: bool = False) -> None:
        self._batches, self._closed = batches, False
        self._poison = poison
        self._current: Batch | None = None

    def __next__(self) -> Batch:
        if self._closed:
            raise RuntimeError(
                "This epoch is closed: by its close(), by its loader's, or by the loader's next "
                "epoch."
            )
        if self._current is not None:
            debug_fill(self._current)
        batch = next(self._batches)
        self._current = batch if self._poison else None
        return batch

    def close(self) -> None:
        """End the epoch. May be called more than once."""
        self._closed = True


class PlainLoader(Loader):
    """Loader whose epochs take their batches from generators."""

    _running: PlainEpoch | None = None

    def run(self, batches: Iterator[Batch], *, poison: bool = False) -> PlainEpoch:
        """Start an epoch with these batches, and close the previous one."""
        PlainLoader.close(self)
        self._running = PlainEpoch(batches, poison)
        return self._running

    def close(self) -> None:
        """Close the running epoch. May be called more than once."""
        if self._running is not None:
            self._running.close()


def check_single_crop(plan: LoaderPlan) -> None:
    """Raise UserError if a plan has several crops per image; for backends that make only one."""
    if plan.crops_per_image > 1:
        raise UserError(
            f"LoaderPlan.crops_per_image is {plan.crops_per_image}; the {plan.backend} backend "
            "makes one crop of each image.",
            "Use backend: ffcv.",
        )


def debug_fill(batch: Batch) -> None:
    """Overwrite an expired batch so that reads of it become visible (LoaderPlan.poison)."""
    for tensor in batch:
        tensor.fill_(DEBUG_FILL_VALUE)
