"""What a loader backend gives: the contract behind every file of `loaders/backends/`, with the parts that all share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import torch

from loaders.plan import LoaderPlan
from loaders.reader import Samples
from writers.errors import UserError

# Images [B, 3, R, R] channels_last, of the plan's dtype; labels int64 [B], or int8 [B, K] where an image has many: 1 it is
# there, 0 it is there but difficult, -1 it is not.
Batch = tuple[torch.Tensor, torch.Tensor]
POISON = 77


class Epoch(ABC):
    """One pass over the samples. An iterator; also a context manager, which ends the work behind it on the way out.

    A batch is valid until the next one is asked for: its memory is then filled again. Clone what must live longer.
    """

    @abstractmethod
    def __next__(self) -> Batch:
        """Raises UserError, naming sample and file, for an image that does not decode; RuntimeError once closed."""

    @abstractmethod
    def close(self) -> None:
        """End the epoch here. May be called twice."""

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Loader(ABC):
    """The samples of a beton, seen through a plan."""

    def __init__(self, plan: LoaderPlan, samples: Samples) -> None:
        self.plan, self.samples = plan, samples
        self.skipped: dict[
            int, UserError
        ] = {}  # place in the file -> why an image is left out (on_corrupt: skip)

    @abstractmethod
    def epoch(self, epoch: int, resolution: int | None = None, start_batch: int = 0) -> Epoch:
        """The batches of this epoch, at the plan's resolution unless told. A new epoch closes the one before.

        `start_batch`: how many to leave out at the front, at no cost; the others are what they are in the whole epoch.
        `len(loader)` leaves out all. Raises UserError for more than that.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back threads, buffers and the file. May be called twice."""

    @property
    def num_samples(self) -> int:
        """N: samples that the plan sees, all ranks together, after view and relabelling."""
        return len(self.samples)

    @property
    def multi_label(self) -> bool:
        """Whether an image has a label for each class."""
        return self.samples.multi_label

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, after relabelling."""
        return self.samples.classes

    def __len__(self) -> int:
        """Batches per epoch, of this rank."""
        return self.samples.num_batches(self.plan)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class PlainEpoch(Epoch):
    """An epoch out of a generator, for backends that make each batch when it is asked for."""

    def __init__(self, batches: Iterator[Batch], poison: bool = False) -> None:
        self._batches, self._closed = batches, False
        self._poison = poison
        self._held: Batch | None = None

    def __next__(self) -> Batch:
        if self._closed:
            raise RuntimeError(
                "This epoch is closed: by its close(), by its loader's, or by the loader's next epoch."
            )
        if self._held is not None:
            poison(self._held)
        batch = next(self._batches)
        self._held = batch if self._poison else None
        return batch

    def close(self) -> None:
        self._closed = True


def refuse_several_crops(plan: LoaderPlan) -> None:
    """Raise UserError for a plan of several crops an image, in a backend that makes one."""
    if plan.crops_per_image > 1:
        raise UserError(
            f"LoaderPlan.crops_per_image is {plan.crops_per_image}; the {plan.backend} backend makes one crop of each image.",
            "Use backend: ffcv.",
        )


def poison(batch: Batch) -> None:
    """Overwrite a batch whose time is over, so that a test or a loss shows who still holds it (LoaderPlan.poison)."""
    for tensor in batch:
        tensor.fill_(POISON)
