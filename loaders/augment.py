"""Which part of each image a batch shows: crops and flips as a pure function of (seed, epoch, sample).

Each sample has its own stream of random words (`writers/random_streams.py`), by its id, so its crop is the same for any number of
threads, any batch size, any backend, any file that holds it, and after a resume. Words of a sample: 0 the flip; 1 and 2,
3 and 4, ... 19 and 20 area and ratio of the ten tries; 21 left, 22 top. `loaders/backends/reference.py` has the slow twin,
one sample at a time in Python integers.
"""

from dataclasses import dataclass

import numpy as np

from loaders.plan import LoaderPlan
from writers.random_streams import random_words, uniform

NUM_TRIES = 10  # as torchvision.transforms.RandomResizedCrop.get_params
NUM_WORDS = 1 + 2 * NUM_TRIES + 2

BLOCK_BYTES = 2**23  # of the file that are read together: FFCV's page
WINDOW_BLOCKS = 64  # in memory at a time, 512 MiB

_ORDER_KEY = 0x6F72646572  # so that order and pixels draw from unrelated streams
_BLOCK_KEY = 0x626C6F636B


@dataclass(frozen=True)
class Crops:
    """For each image of a batch the box to show, in pixels of the stored image, and whether to mirror it."""

    boxes: (
        np.ndarray
    )  # int64 [B, 4]: left, top, width, height; inside the image, width and height at least 1
    flips: np.ndarray  # bool [B]


def choose_crops(
    plan: LoaderPlan, epoch: int, ids: np.ndarray, widths: np.ndarray, heights: np.ndarray
) -> Crops:
    """Crops of the samples with these ids (uint64 [B]) and sizes in pixels (int64 [B])."""
    words = random_words(plan.seed, epoch, ids, NUM_WORDS)
    if plan.augment == "random_resized_crop":
        boxes = _random_boxes(
            uniform(words[:, 1:]), widths, heights, plan.crop_scale, plan.crop_ratio
        )
    else:
        boxes = _center_boxes(widths, heights, plan.center_fraction)
    flips = (
        (words[:, 0] >> np.uint64(63)).astype(bool)
        if plan.horizontal_flip
        else np.zeros(len(ids), bool)
    )
    return Crops(boxes, flips)


def random_order(seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """A permutation of the samples with these ids (uint64 [N]): int64 [N]. A subset keeps the order it has in the whole."""
    words = random_words(seed ^ _ORDER_KEY, epoch, ids, 1)
    return np.argsort(words[:, 0], kind="stable")


def quasi_random_order(seed: int, epoch: int, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """A permutation (int64 [N]) that goes through a file of any size with few of its pages in memory.

    Blocks of the file in random order, WINDOW_BLOCKS of them at a time; within such a window the samples in random order. Since
    betons are written in a random order, a window is a fair draw of all classes. `offsets`: where the images lie, int64 [N].
    """
    blocks, block_of = np.unique(offsets // BLOCK_BYTES, return_inverse=True)
    place = np.empty(len(blocks), np.int64)
    place[np.argsort(random_words(seed ^ _BLOCK_KEY, epoch, blocks, 1)[:, 0], kind="stable")] = (
        np.arange(len(blocks))
    )
    words = random_words(seed ^ _ORDER_KEY, epoch, ids, 1)[:, 0]
    return np.lexsort((words, place[block_of] // WINDOW_BLOCKS))


def _random_boxes(
    draws: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> np.ndarray:
    """torchvision's RandomResizedCrop: the first of ten tries that fits, else the largest box of an allowed ratio."""
    tries = draws[:, : 2 * NUM_TRIES].reshape(-1, NUM_TRIES, 2)
    areas = (widths * heights)[:, None] * (scale[0] + (scale[1] - scale[0]) * tries[:, :, 0])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    ratios = np.exp(low + (high - low) * tries[:, :, 1])
    box_widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    box_heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (
        (box_widths > 0)
        & (box_widths <= widths[:, None])
        & (box_heights > 0)
        & (box_heights <= heights[:, None])
    )
    chosen = np.arange(len(widths)), fits.argmax(axis=1)
    found = fits[chosen]

    whole_ratio = widths / heights
    fallback_widths = np.where(whole_ratio > ratio[1], np.rint(heights * ratio[1]), widths).astype(
        np.int64
    )
    fallback_heights = np.where(whole_ratio < ratio[0], np.rint(widths / ratio[0]), heights).astype(
        np.int64
    )
    box_width = np.maximum(np.where(found, box_widths[chosen], fallback_widths), 1)
    box_height = np.maximum(np.where(found, box_heights[chosen], fallback_heights), 1)

    free_x, free_y = widths - box_width, heights - box_height
    left = np.where(found, np.floor(draws[:, -2] * (free_x + 1)), free_x // 2).astype(np.int64)
    top = np.where(found, np.floor(draws[:, -1] * (free_y + 1)), free_y // 2).astype(np.int64)
    return np.stack([left, top, box_width, box_height], axis=1)


def _center_boxes(widths: np.ndarray, heights: np.ndarray, fraction: float) -> np.ndarray:
    """The square of `fraction` of the shorter side, in the middle: crop, then resize, as FFCV does it.

    Where FFCV truncates, sizes and corners are rounded half to even, as torchvision's center_crop rounds its corners.
    """
    side = np.maximum(np.rint(np.minimum(widths, heights) * fraction), 1).astype(np.int64)
    left = np.rint((widths - side) / 2).astype(np.int64)
    top = np.rint((heights - side) / 2).astype(np.int64)
    return np.stack([left, top, side, side], axis=1)
