"""Adapt batches of whole images with boxes to the training loop."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor


class BoxBatch(Protocol):
    """A batch of B images; `loaders.detection.DetectionBatch` is one.

    Attributes:
        images: for each image, its pixels, uint8 [3, H, W].
        boxes: for each image, left, top, right and bottom of n objects in pixels, float32 [n, 4].
        labels: for each image, classes from 0, int64 [n].
        difficult: for each image, True for objects that are marked as difficult, bool [n].
    """

    @property
    def images(self) -> list[Tensor]: ...  # noqa: D102
    @property
    def boxes(self) -> list[Tensor]: ...  # noqa: D102
    @property
    def labels(self) -> list[Tensor]: ...  # noqa: D102
    @property
    def difficult(self) -> list[Tensor]: ...  # noqa: D102


class BoxLoader(Protocol):
    """A loader of a split's images; `loaders.detection.DetectionLoader` is one."""

    @property
    def num_samples(self) -> int: ...  # noqa: D102

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[BoxBatch]:
        """Yield the batches of epoch `number`, beginning with batch `start_batch`."""


@dataclass(frozen=True)
class FitPlan:
    """Fields of a loader's plan that the training loop reads."""

    batch_size: int
    resolution: int  # shorter side of the resized image, in pixels; recorded, but not used
    world_size: int = 1
    drop_last: bool = False


class FedLoader:
    """Adapter of a `BoxLoader` for `harness.train.fit.fit`.

    `fit` calls `wait` to get a batch, and then `finish`, which copies the batch to the device.
    """

    def __init__(self, loader: BoxLoader, plan: FitPlan, device: str) -> None:
        self._loader, self.plan, self._device = loader, plan, device

    @property
    def num_samples(self) -> int:
        """Number of images in the split."""
        return self._loader.num_samples

    def epoch(
        self, number: int, resolution: int | None = None, start_batch: int = 0
    ) -> "_FedEpoch":
        """Start an epoch at `start_batch`. `resolution` is not used: images keep their size."""
        return _FedEpoch(self._loader.epoch(number, start_batch), self._device)


class _FedEpoch:
    def __init__(self, batches: Iterator[BoxBatch], device: str) -> None:
        self._batches, self._device = batches, device

    def wait(self) -> BoxBatch:
        """Wait for the next batch."""
        return next(self._batches)

    def finish(self, batch: BoxBatch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Copy a batch to the device; return its images, and its targets (see `targets_of`)."""
        return to_device(batch.images, self._device), targets_of(batch, self._device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        close = getattr(self._batches, "close", None)  # generators have this method
        if close is not None:
            close()


def targets_of(batch: BoxBatch, device: str) -> list[dict[str, Tensor]]:
    """Build the targets of `Detector.forward`. Difficult objects are left out, as in Fast R-CNN.

    Returns:
        For each image, `boxes`, float32 [n, 4], and `labels`, int64 [n], from 1, because 0 is the
        background.
    """
    return [
        {
            "boxes": boxes[~difficult].to(device),
            "labels": (labels[~difficult] + 1).to(device),
        }
        for boxes, labels, difficult in zip(batch.boxes, batch.labels, batch.difficult, strict=True)
    ]


def to_device(images: list[Tensor], device: str) -> list[Tensor]:
    """Copy images [3, H, W] to the device. Only the device waits for the copies, not the caller."""
    return [image.to(device, non_blocking=True) for image in images]
