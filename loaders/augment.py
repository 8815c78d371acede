"""Which part of each image a batch shows: crops and flips as a pure function of (seed, epoch, sample).

No generator carries state from one sample to the next. Each sample has its own stream of random words, made by hashing
(splitmix64: Steele, Lea and Flood, OOPSLA 2014), so its crop is the same for any number of threads, any batch size, any
backend, and after a resume. Words of a sample: 0 the flip; 1 and 2, 3 and 4, ... 19 and 20 area and ratio of the ten
tries; 21 left, 22 top. `loaders/backends/reference.py` has the slow twin, one sample at a time in Python integers.
"""

from dataclasses import dataclass

import numpy as np

from loaders.plan import LoaderPlan

NUM_TRIES = 10              # as torchvision.transforms.RandomResizedCrop.get_params
NUM_WORDS = 1 + 2 * NUM_TRIES + 2

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15     # splitmix64's increment
_ORDER_KEY = 0x6F72646572       # so that order and pixels draw from unrelated streams


@dataclass(frozen=True)
class Crops:
    """For each image of a batch the box to show, in pixels of the stored image, and whether to mirror it."""

    boxes: np.ndarray       # int64 [B, 4]: left, top, width, height; inside the image, width and height at least 1
    flips: np.ndarray       # bool [B]


def choose_crops(plan: LoaderPlan, epoch: int, samples: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> Crops:
    """Crops of the images with these indices in the file (int64 [B]) and sizes in pixels (int64 [B])."""
    words = random_words(plan.seed, epoch, samples, NUM_WORDS)
    if plan.augment == "random_resized_crop":
        boxes = _random_boxes(_uniform(words[:, 1:]), widths, heights, plan.crop_scale, plan.crop_ratio)
    else:
        boxes = _center_boxes(widths, heights, plan.center_fraction)
    flips = (words[:, 0] >> np.uint64(63)).astype(bool) if plan.horizontal_flip else np.zeros(len(samples), bool)
    return Crops(boxes, flips)


def random_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """A permutation of `num_samples` positions: int64 [N], a function of (seed, epoch) alone, the same in any numpy."""
    words = random_words(seed ^ _ORDER_KEY, epoch, np.arange(num_samples), 1)
    return np.argsort(words[:, 0], kind="stable")


def random_words(seed: int, epoch: int, samples: np.ndarray, count: int) -> np.ndarray:
    """`count` random words for each sample: uint64 [B, count]."""
    key = np.array([seed & _MASK], np.uint64)
    key = _mix(_mix(key + np.uint64(_GAMMA)) + np.uint64(epoch & _MASK))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    streams = _mix(key + (samples.astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA))
    return _mix(streams[:, None] + steps[None, :])


def _random_boxes(uniform: np.ndarray, widths: np.ndarray, heights: np.ndarray, scale: tuple[float, float],
                  ratio: tuple[float, float]) -> np.ndarray:
    """torchvision's RandomResizedCrop: the first of ten tries that fits, else the largest box of an allowed ratio."""
    tries = uniform[:, :2 * NUM_TRIES].reshape(-1, NUM_TRIES, 2)
    areas = (widths * heights)[:, None] * (scale[0] + (scale[1] - scale[0]) * tries[:, :, 0])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    ratios = np.exp(low + (high - low) * tries[:, :, 1])
    box_widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    box_heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (box_widths > 0) & (box_widths <= widths[:, None]) & (box_heights > 0) & (box_heights <= heights[:, None])
    chosen = np.arange(len(widths)), fits.argmax(axis=1)
    found = fits[chosen]

    whole_ratio = widths / heights
    fallback_widths = np.where(whole_ratio > ratio[1], np.rint(heights * ratio[1]), widths).astype(np.int64)
    fallback_heights = np.where(whole_ratio < ratio[0], np.rint(widths / ratio[0]), heights).astype(np.int64)
    box_width = np.maximum(np.where(found, box_widths[chosen], fallback_widths), 1)
    box_height = np.maximum(np.where(found, box_heights[chosen], fallback_heights), 1)

    free_x, free_y = widths - box_width, heights - box_height
    left = np.where(found, np.floor(uniform[:, -2] * (free_x + 1)), free_x // 2).astype(np.int64)
    top = np.where(found, np.floor(uniform[:, -1] * (free_y + 1)), free_y // 2).astype(np.int64)
    return np.stack([left, top, box_width, box_height], axis=1)


def _center_boxes(widths: np.ndarray, heights: np.ndarray, fraction: float) -> np.ndarray:
    """The square of `fraction` of the shorter side, in the middle: crop, then resize, as FFCV does it.

    Where FFCV truncates, sizes and corners are rounded half to even, as torchvision's center_crop rounds its corners.
    """
    side = np.maximum(np.rint(np.minimum(widths, heights) * fraction), 1).astype(np.int64)
    left = np.rint((widths - side) / 2).astype(np.int64)
    top = np.rint((heights - side) / 2).astype(np.int64)
    return np.stack([left, top, side, side], axis=1)


def _uniform(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1): the upper 53 bits of each word."""
    return (words >> np.uint64(11)) * 2.0**-53


def _mix(words: np.ndarray) -> np.ndarray:
    """splitmix64's output function: a bijection of 64-bit words in which each input bit moves half the output bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
