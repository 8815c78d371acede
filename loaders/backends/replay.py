"""Repeat the first batches of an epoch, to measure training on real images without loading cost.

The speedup of such a run over a run with `ffcv` is the most that faster loading could gain. The
backend `synthetic` needs no decoding at all, but a model learns nothing from its noise.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from loaders.backend import Batch, PlainEpoch, PlainLoader, check_single_crop
from loaders.backends import ffcv
from loaders.plan import LoaderPlan
from loaders.reader import open_samples, split_batches
from writers.errors import UserError

NUM_BATCHES = 4


def open_loader(plan: LoaderPlan) -> "ReplayLoader":
    """Open a loader. Raises UserError if the plan has several crops per image or `poison`.

    Other errors are those of the ffcv backend.
    """
    check_single_crop(plan)
    if plan.poison:
        raise UserError(
            "LoaderPlan.poison overwrites batches, but the replay backend reuses them.",
            "Use another backend to look for batches that are held too long.",
        )
    return ReplayLoader(plan, open_samples(plan))


class ReplayLoader(PlainLoader):
    """Loader that repeats the first NUM_BATCHES full batches of the ffcv backend, or fewer.

    If a batch of the epoch is shorter than these, it has only their first images.
    """

    _loaded: tuple[int, list[Batch]] | None = None  # resolution, and batches at this resolution

    def start(self, order: np.ndarray, epoch: int, resolution: int) -> PlainEpoch:
        """Start an epoch; see `Loader.start`."""
        batches = split_batches(self.plan, order)
        if self._loaded is None or self._loaded[0] != resolution:
            self._loaded = resolution, self._load(epoch, resolution)
        return self.run(_cut(batches, self._loaded[1]))

    def _load(self, epoch: int, resolution: int) -> list[Batch]:
        with (
            ffcv.open_loader(replace(self.plan, backend="ffcv")) as loader,
            loader.epoch(epoch, resolution) as batches,
        ):
            kept = [
                (images.clone(), labels.clone()) for images, labels in islice(batches, NUM_BATCHES)
            ]
            self.skipped.update(loader.skipped)
        longest = max(len(labels) for _, labels in kept)
        # Drop the last batch if it is shorter than the others.
        return [batch for batch in kept if len(batch[1]) == longest]


def _cut(batches: list[np.ndarray], loaded: list[Batch]) -> Iterator[Batch]:
    for number, positions in enumerate(batches):
        images, labels = loaded[number % len(loaded)]
        yield images[: len(positions)], labels[: len(positions)]
