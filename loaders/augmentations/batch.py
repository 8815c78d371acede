"""Augment a batch: apply all augmentations of the settings in order."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loaders.augmentations import color, draws, randaugment, regions
from loaders.augmentations.settings import Augmentations, ColorJitter
from loaders.backend import Batch
from loaders.pinned import to_device

_JITTER_OPS = (color.brightness, color.contrast, color.saturation, color.hue)
# Images that are augmented together, by type of device. On a CPU, intermediate values then stay in
# the caches; on a GPU, the limit bounds their memory.
_IMAGES_AT_ONCE = {"cpu": 16, "cuda": 256}


@dataclass(frozen=True)
class Stream:
    """Keys of the random numbers of a batch.

    Attributes:
        seed: seed of the plan.
        epoch: number of the epoch.
        ids: uint64 [B], ids of the samples.
    """

    seed: int
    epoch: int
    ids: np.ndarray

    def part(self, rows: slice) -> "Stream":
        """Return the keys of some rows of the batch."""
        return Stream(self.seed, self.epoch, self.ids[rows])

    @property
    def key(self) -> tuple[int, int, np.ndarray]:
        """Seed, epoch and ids (uint64 [B]), the last arguments of the functions in draws.py."""
        return self.seed, self.epoch, self.ids


def augment(
    images: Tensor, labels: Tensor, settings: Augmentations, stream: Stream, num_classes: int
) -> Batch:
    """Augment a batch without changing the input tensors.

    Args:
        images: uint8 [B, 3, R, R] in channels_last; or float32 in [0, 1], which is rounded to
            multiples of 1 / 255.
        labels: int64 [B], or int8 [B, K] if nothing is mixed.
        settings: augmentations to apply.
        stream: keys of the random numbers.
        num_classes: K.

    Returns:
        Images, uint8 [B, 3, R, R] in channels_last, and labels. If MixUp or CutMix is used, labels
        are probabilities, float32 [B, K]; otherwise they are returned as given.
    """
    if images.is_floating_point():
        images = (images * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = images.permute(0, 2, 3, 1).contiguous()
    size = _IMAGES_AT_ONCE.get(pixels.device.type, len(pixels))
    parts = [slice(start, start + size) for start in range(0, len(pixels), size)]
    pixels = torch.cat([_each(pixels[rows], settings, stream.part(rows)) for rows in parts])
    if settings.mixes:
        drawn, sources = draws.mixes(settings, *stream.key), pixels
        partners = regions.partners(sources)
        mixed = [regions.mix(sources[p], partners[p], drawn.part(p)) for p in parts]
        pixels = torch.cat([images for images, _ in mixed])
        own = torch.cat([weights for _, weights in mixed])
        labels = regions.mix_labels(labels, own, num_classes)
    return pixels.permute(0, 3, 1, 2), labels


def _each(pixels: Tensor, settings: Augmentations, stream: Stream) -> Tensor:
    """Apply the augmentations that change each image separately. pixels: uint8 [N, H, W, 3]."""
    if (rand := settings.randaugment) is not None:
        drawn = draws.rand_ops(rand, len(randaugment.ops_of(rand)), *stream.key)
        pixels = randaugment.apply(pixels, rand, drawn)
    if settings.color_jitter is not None:
        jitter = draws.jitter(settings.color_jitter, *stream.key)
        pixels = _jittered(pixels, settings.color_jitter, jitter)
    if settings.lighting is not None:
        colors = draws.lighting(settings.lighting, *stream.key)
        pixels = color.add_color(pixels, to_device(colors, pixels.device))
    if settings.erasing is not None:
        rectangles = draws.rectangles(settings.erasing, *stream.key)
        pixels = regions.erase(pixels, rectangles, settings.erasing.fill)
    return pixels


def _jittered(pixels: Tensor, settings: ColorJitter, drawn: draws.Jitter) -> Tensor:
    pixels = pixels.clone()
    used = [number for number, name in enumerate(draws.JITTER_OPS) if getattr(settings, name) > 0]
    for place in range(len(draws.JITTER_OPS)):
        for number in used:
            rows = np.flatnonzero(drawn.order[:, place] == number)
            if len(rows):
                places = to_device(rows, pixels.device)
                factors = to_device(drawn.factors[rows, number], pixels.device)
                pixels[places] = _JITTER_OPS[number](pixels[places], factors)
    return pixels
