"""Which part of each image a batch shows: crops and flips as a pure function of (seed, epoch, sample).

Each sample has its own stream of random words (`writers/random_streams.py`), by its id, so its crop is the same for any number of
threads, any batch size, any backend, any file that holds it, and after a resume. Words of a sample: 0 the flip; 1 and 2,
3 and 4, ... 19 and 20 area and ratio of the ten tries; 21 left, 22 top. `loaders/backends/reference.py` has the slow twin,
one sample at a time in Python integers.
"""

from dataclasses import dataclass

import numpy as np

from loaders.plan import LoaderPlan
from writers.random_streams import random_words, uniform, words_at

NUM_TRIES = 10  # as torchvision.transforms.RandomResizedCrop.get_params
NUM_WORDS = 1 + 2 * NUM_TRIES + 2
_FIRST_WORDS = np.array([0, 1, 2, NUM_WORDS - 2, NUM_WORDS - 1])  # flip, first try, left, top
_OTHER_TRIES = np.arange(3, NUM_WORDS - 2)

BLOCK_BYTES = 2**23  # of the file that are read together: FFCV's page
WINDOW_BLOCKS = 64  # in memory at a time, 512 MiB

_ORDER_KEY = 0x6F72646572  # so that order and pixels draw from unrelated streams
_BLOCK_KEY = 0x626C6F636B


@dataclass(frozen=True)
class Crops:
    """For each image of a batch the box to show, in pixels of the stored image, and whether to mirror it.

    With k crops of each image: those of the first image, those of the second, ...
    """

    boxes: (
        np.ndarray
    )  # int64 [B, 4]: left, top, width, height; inside the image, width and height at least 1
    flips: np.ndarray  # bool [B]

    @classmethod
    def none(cls) -> "Crops":
        return cls(np.empty((0, 4), np.int64), np.empty(0, bool))


def choose_crops(
    plan: LoaderPlan, epoch: int, ids: np.ndarray, widths: np.ndarray, heights: np.ndarray
) -> Crops:
    """Crops of the samples with these ids (uint64 [B]) and sizes in pixels (int64 [B]): plan.crops_per_image of each.

    View v of a sample takes the words from v * NUM_WORDS on, so that the first is the one that a plan of one crop has.
    """
    views = [
        _choose_view(plan, epoch, ids, widths, heights, view)
        for view in range(plan.crops_per_image)
    ]
    if len(views) == 1:
        return views[0]
    boxes = np.stack([crops.boxes for crops in views], axis=1)
    return Crops(boxes.reshape(-1, 4), np.stack([crops.flips for crops in views], axis=1).ravel())


def _choose_view(
    plan: LoaderPlan,
    epoch: int,
    ids: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    view: int,
) -> Crops:
    words = words_at(plan.seed, epoch, ids, _FIRST_WORDS + view * NUM_WORDS)
    if plan.augment == "random_resized_crop":
        boxes = _random_boxes(plan, epoch, ids, uniform(words), widths, heights, view)
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
    plan: LoaderPlan,
    epoch: int,
    ids: np.ndarray,
    draws: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    view: int,
) -> np.ndarray:
    """torchvision's RandomResizedCrop: the first of ten tries that fits, else the largest box of an allowed ratio.

    draws: float64 [B, 5], of _FIRST_WORDS. Mostly the first try fits; the others are drawn for those samples that need them.
    """
    ratio = plan.crop_ratio
    box_widths, box_heights, found = _tried(plan, draws[:, 1], draws[:, 2], widths, heights)
    failed = np.flatnonzero(~found)
    if len(failed):
        words = words_at(plan.seed, epoch, ids[failed], _OTHER_TRIES + view * NUM_WORDS)
        tries = uniform(words).reshape(len(failed), NUM_TRIES - 1, 2)
        more_widths, more_heights, fits = _tried(
            plan, tries[:, :, 0], tries[:, :, 1], widths[failed, None], heights[failed, None]
        )
        chosen = np.arange(len(failed)), fits.argmax(axis=1)
        box_widths[failed], box_heights[failed] = more_widths[chosen], more_heights[chosen]
        found[failed] = fits[chosen]

    whole_ratio = widths / heights
    fallback_widths = np.where(whole_ratio > ratio[1], np.rint(heights * ratio[1]), widths).astype(
        np.int64
    )
    fallback_heights = np.where(whole_ratio < ratio[0], np.rint(widths / ratio[0]), heights).astype(
        np.int64
    )
    box_width = np.maximum(np.where(found, box_widths, fallback_widths), 1)
    box_height = np.maximum(np.where(found, box_heights, fallback_heights), 1)

    free_x, free_y = widths - box_width, heights - box_height
    left = np.where(found, np.floor(draws[:, -2] * (free_x + 1)), free_x // 2).astype(np.int64)
    top = np.where(found, np.floor(draws[:, -1] * (free_y + 1)), free_y // 2).astype(np.int64)
    return np.stack([left, top, box_width, box_height], axis=1)


def _tried(
    plan: LoaderPlan,
    area_draws: np.ndarray,
    ratio_draws: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Width and height (int64) of the boxes that draws in [0, 1) give, and whether each fits the image (bool)."""
    (smallest, largest), ratio = plan.crop_scale, plan.crop_ratio
    areas = (widths * heights) * (smallest + (largest - smallest) * area_draws)
    low, high = np.log(ratio[0]), np.log(ratio[1])
    ratios = np.exp(low + (high - low) * ratio_draws)
    box_widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    box_heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (box_widths > 0) & (box_widths <= widths) & (box_heights > 0) & (box_heights <= heights)
    return box_widths, box_heights, fits


def _center_boxes(widths: np.ndarray, heights: np.ndarray, fraction: float) -> np.ndarray:
    """The square of `fraction` of the shorter side, in the middle: crop, then resize, as FFCV does it.

    Where FFCV truncates, sizes and corners are rounded half to even, as torchvision's center_crop rounds its corners.
    """
    side = np.maximum(np.rint(np.minimum(widths, heights) * fraction), 1).astype(np.int64)
    left = np.rint((widths - side) / 2).astype(np.int64)
    top = np.rint((heights - side) / 2).astype(np.int64)
    return np.stack([left, top, side, side], axis=1)
