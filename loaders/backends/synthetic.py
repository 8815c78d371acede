"""Return noise images with the `.beton` file's labels, to measure training without loading cost."""

from collections.abc import Iterator

import numpy as np
import torch

from loaders.backend import Batch, PlainEpoch, PlainLoader, check_single_crop
from loaders.normalize import look_up, lookup_table
from loaders.plan import LoaderPlan
from loaders.reader import open_samples, split_batches


def open_loader(plan: LoaderPlan) -> "SyntheticLoader":
    """Open a loader. Raises UserError if the plan has several crops per image."""
    check_single_crop(plan)
    return SyntheticLoader(plan, open_samples(plan))


class SyntheticLoader(PlainLoader):
    """Loader that returns the same random images in every batch.

    A short batch has the first of these images.
    """

    _images: torch.Tensor | None = None

    def start(self, order: np.ndarray, epoch: int, resolution: int) -> PlainEpoch:
        """Start an epoch; see `Loader.start`."""
        batches = split_batches(self.plan, order)
        if self._images is None or self._images.shape[-1] != resolution:
            self._images = _noise(self.plan, resolution)
        return self.run(self._batches(batches, self._images))

    def _batches(self, batches: list[np.ndarray], images: torch.Tensor) -> Iterator[Batch]:
        for positions in batches:
            yield (
                images[: len(positions)],
                torch.from_numpy(self.samples.labels[positions]).to(self.plan.device),
            )


def _noise(plan: LoaderPlan, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(plan.seed)
    pixels = torch.randint(
        256, (plan.local_batch_size, side, side, 3), dtype=torch.uint8, generator=generator
    )
    return look_up(torch.from_numpy(lookup_table(plan)), pixels).to(plan.device).permute(0, 3, 1, 2)
