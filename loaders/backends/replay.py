"""The first batches of an epoch, loaded once and given again and again: training on real images when loading costs nothing.

How much faster than with `ffcv` a run is with it is what better loading could gain at the most. `synthetic` needs no image to
decode; its noise, though, teaches a model nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from loaders.backend import Batch, Loader, PlainEpoch, refuse_several_crops
from loaders.backends import ffcv
from loaders.plan import LoaderPlan
from loaders.reader import open_samples
from writers.errors import UserError

NUM_BATCHES = 4


def open_loader(plan: LoaderPlan) -> "ReplayLoader":
    refuse_several_crops(plan)
    if plan.poison:
        raise UserError(
            "LoaderPlan.poison overwrites batches, and the replay backend gives the same ones again.",
            "Use another backend to look for batches that are held too long.",
        )
    return ReplayLoader(plan, open_samples(plan))


class ReplayLoader(Loader):
    """Batches of the right lengths, cut from NUM_BATCHES that the ffcv backend made, with their own labels."""

    _loaded: tuple[int, list[Batch]] | None = None  # and at which resolution
    _running: PlainEpoch | None = None

    def epoch(self, epoch: int, resolution: int | None = None, start_batch: int = 0) -> PlainEpoch:
        batches = self.samples.batches(self.plan, epoch, start_batch)
        self.close()
        side = resolution or self.plan.resolution
        if self._loaded is None or self._loaded[0] != side:
            self._loaded = side, self._load(epoch, side)
        self._running = PlainEpoch(_cut(batches, self._loaded[1]))
        return self._running

    def close(self) -> None:
        if self._running is not None:
            self._running.close()

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
        return [
            batch for batch in kept if len(batch[1]) == longest
        ]  # without a short one at the end


def _cut(batches: list[np.ndarray], loaded: list[Batch]) -> Iterator[Batch]:
    for number, positions in enumerate(batches):
        images, labels = loaded[number % len(loaded)]
        yield images[: len(positions)], labels[: len(positions)]
