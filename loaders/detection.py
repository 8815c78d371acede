"""Load whole images with the boxes of their objects, for detection.

Images keep their stored sizes, so a batch is a list. Order and flips are the same functions of
(seed, epoch, sample) as with a `LoaderPlan`; boxes are mirrored with their image. The same plan and
epoch give the same batches for any number of threads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from loaders.closed_on_exit import ClosedOnExit
from loaders.crops import choose_crops
from loaders.plan import LoaderPlan
from loaders.reader import Samples, open_samples
from loaders.whole_images import WholeImageDecoder
from writers.beton.boxes import BoxTable
from writers.beton.store import open_beton
from writers.errors import UserError
from writers.map_ahead import map_ahead

BATCHES_AHEAD = 2  # batches that are decoded ahead while the consumer works


@dataclass(frozen=True, eq=False)
class DetectionPlan:
    """Settings of a loader of whole images with boxes.

    Attributes:
        beton: path of a `.beton` file with boxes.
        batch_size: images per batch.
        order: order of an epoch.
        horizontal_flip: mirror each image and its boxes with probability 1/2.
        seed: seed of order and flips.
        num_threads: decoding threads.
        drop_last: drop the incomplete batch at the end.
        indices: samples of the file, in this order. None means all.

    Raises:
        UserError: a value is invalid.
    """

    beton: Path
    batch_size: int
    order: Literal["random", "sequential"] = "random"
    horizontal_flip: bool = False
    seed: int = 0
    num_threads: int = 1
    drop_last: bool = False
    indices: Sequence[int] | np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "beton", Path(self.beton))
        if self.order not in ("random", "sequential"):
            raise UserError(
                f"DetectionPlan.order is {self.order!r}; it must be one of random, sequential."
            )
        for name in ("batch_size", "num_threads"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"DetectionPlan.{name} is {getattr(self, name)}; it must be at least 1."
                )

    @property
    def of_images(self) -> LoaderPlan:
        """LoaderPlan with the same samples, order and flips."""
        return LoaderPlan(
            self.beton,
            self.batch_size,
            resolution=1,  # not used: images are whole
            horizontal_flip=self.horizontal_flip,
            order=self.order,
            drop_last=self.drop_last,
            seed=self.seed,
            indices=self.indices,
            num_threads=self.num_threads,
        )


@dataclass(frozen=True)
class DetectionBatch:
    """Images and their objects. The images' memory is not reused while a tensor of `images` exists.

    Attributes:
        images: uint8 [3, H_i, W_i] of each image.
        boxes: float32 [n_i, 4] of each image: left, top, right, bottom in pixels of the image;
            right and bottom are exclusive. An image without objects has [0, 4].
        labels: int64 [n_i] of each image, classes from 0.
        difficult: bool [n_i] of each image.
        ids: int64 [B], the bits of the samples' uint64 ids.
    """

    images: list[torch.Tensor]
    boxes: list[torch.Tensor]
    labels: list[torch.Tensor]
    difficult: list[torch.Tensor]
    ids: torch.Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)


class DetectionLoader(ClosedOnExit):
    """Loader of whole images and their boxes; see `open_detection_loader`."""

    def __init__(self, plan: DetectionPlan, samples: Samples, table: BoxTable) -> None:
        self.plan, self.samples = plan, samples
        self._plan, self._table = plan.of_images, table
        self._decoder: WholeImageDecoder | None = WholeImageDecoder(samples, plan.num_threads)

    @property
    def num_samples(self) -> int:
        """Number of samples that the plan selects."""
        return len(self.samples)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.samples.classes

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.samples.num_batches(self._plan)

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[DetectionBatch]:
        """Start an epoch.

        Args:
            number: number of the epoch; with the plan's seed it decides order and flips.
            start_batch: batches to skip at the start, at no cost; the remaining batches equal those
                of the full epoch.

        Raises:
            UserError: start_batch is not in [0, len(loader)], or the loader is closed. While
                iterating: an image is damaged.
        """
        if self._decoder is None:
            raise UserError("This loader is closed.", "Open it again.")
        batches = self.samples.batches(self._plan, number, start_batch)
        return self._batches(self._decoder, batches, number)

    def _batches(
        self, decoder: WholeImageDecoder, batches: list[np.ndarray], number: int
    ) -> Iterator[DetectionBatch]:
        """Return an iterator over the batches; a thread decodes the next ones.

        `batches` has the positions of each batch's samples, int64 [B]; `number` is the epoch's.
        """
        return map_ahead(
            lambda positions: self._load(decoder, positions, number),
            batches,
            num_threads=1,
            max_pending=BATCHES_AHEAD,
            name="harness-detection",
        )

    def _load(
        self, decoder: WholeImageDecoder, positions: np.ndarray, number: int
    ) -> DetectionBatch:
        samples = self.samples
        ids, widths = samples.ids[positions], samples.widths[positions]
        flips = choose_crops(self._plan, number, ids, widths, samples.heights[positions]).flips
        objects, counts = self._table.of_many(samples.indices[positions])
        boxes = mirrored(objects[:, :4], np.repeat(widths, counts), np.repeat(flips, counts))
        sizes = counts.tolist()
        images = decoder.decode(positions, flips)
        return DetectionBatch(
            images,
            list(torch.from_numpy(boxes).split(sizes)),
            list(torch.from_numpy(objects[:, 4].astype(np.int64)).split(sizes)),
            list(torch.from_numpy(objects[:, 5] != 0).split(sizes)),
            torch.from_numpy(ids.astype(np.uint64).view(np.int64)),
        )

    def close(self) -> None:
        """Release threads and the file. May be called more than once."""
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None


def open_detection_loader(plan: DetectionPlan) -> DetectionLoader:
    """Open a loader of whole images with boxes.

    Raises:
        UserError: the beton is missing or damaged, has no boxes, or lacks a sample of `indices`.
    """
    table = open_beton(plan.beton).box_table
    return DetectionLoader(plan, open_samples(plan.of_images), table)


def mirrored(boxes: np.ndarray, widths: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Mirror those boxes whose flip is True.

    Args:
        boxes: left, top, right and bottom, float32 [n, 4].
        widths: width of each box's image, int64 [n].
        flips: bool [n].

    Returns:
        A new array, float32 [n, 4].
    """
    result = boxes.copy()
    result[flips, 0] = widths[flips] - boxes[flips, 2]
    result[flips, 2] = widths[flips] - boxes[flips, 0]
    return result
