"""Wrap a backend's loader to augment its batches."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch

from loaders.augmentations.batch import Stream, augment
from loaders.augmentations.settings import Augmentations
from loaders.backend import Batch, Epoch, Loader
from loaders.normalize import look_up, lookup_table
from loaders.plan import LoaderPlan
from loaders.reader import split_batches
from writers.errors import UserError


class AugmentedLoader(Loader):
    """Loader that takes the batches of a backend and augments them on their device."""

    def __init__(self, plan: LoaderPlan, open_backend: Callable[[LoaderPlan], Loader]) -> None:
        """Open the backend's loader.

        Raises:
            UserError: images with several labels would be mixed, or a normalized value exceeds
                the range of float16.
        """
        assert plan.augmentations is not None
        table = torch.from_numpy(lookup_table(plan))
        self._settings: Augmentations = plan.augmentations
        self._backend = open_backend(
            replace(plan, augmentations=None, dtype="uint8", mean=None, std=None)
        )
        super().__init__(plan, self._backend.samples)
        self.skipped = self._backend.skipped
        self._table = table.to(plan.device)
        if self._settings.mixes and self.samples.multi_label:
            self._backend.close()
            raise UserError(
                f"MixUp and CutMix need one label per image; images of {plan.beton} have many.",
                "Remove mixup and cutmix.",
            )

    def start(self, order: np.ndarray, epoch: int, resolution: int) -> "AugmentedEpoch":
        """Start an epoch; see `Loader.start`."""
        batches = self._backend.start(order, epoch, resolution)
        return AugmentedEpoch(batches, self, epoch, split_batches(self.plan, order))

    def augment(self, batch: Batch, epoch: int, positions: np.ndarray) -> Batch:
        """Augment a batch.

        Args:
            batch: images and labels from the backend.
            epoch: number of the epoch, which decides the random numbers.
            positions: int64 [M], positions of the batch's samples, including damaged ones that the
                backend has skipped.
        """
        samples = self.samples
        if len(positions) > len(batch[1]):
            kept = [int(index) not in self.skipped for index in samples.indices[positions]]
            positions = positions[kept]
        stream = Stream(self.plan.seed, epoch, samples.ids[positions])
        images, labels = augment(*batch, self._settings, stream, len(self.classes))
        if self.plan.dtype != "uint8":
            images = look_up(self._table, images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return images, labels

    def close(self) -> None:
        """Release all resources; see `Loader.close`."""
        self._backend.close()


class AugmentedEpoch(Epoch):
    """Epoch whose batches are augmented when they are requested."""

    def __init__(
        self,
        batches: Epoch,
        loader: AugmentedLoader,
        epoch: int,
        positions: Iterable[np.ndarray],
    ) -> None:
        self._batches, self._loader, self._epoch = batches, loader, epoch
        self._positions = iter(positions)

    def wait(self) -> Batch:
        """Wait for the next batch of the backend."""
        return next(self._batches)

    def finish(self, batch: Batch) -> Batch:
        """Augment the batch that `wait` returned last."""
        return self._loader.augment(batch, self._epoch, next(self._positions))

    def __next__(self) -> Batch:
        return self.finish(self.wait())

    def close(self) -> None:
        """End the epoch. May be called more than once."""
        self._batches.close()
