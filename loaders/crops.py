"""Choose crops and flips as pure functions of (seed, epoch, sample).

Each sample has its own stream of random words (`writers/random_streams.py`), keyed by its id. Its
crop is therefore the same for any number of threads, batch size, backend and file, and after a
resume. A crop uses 23 words: word 0 decides the flip, words 1 to 20 give the area and the ratio of
ten tries (two words per try), word 21 gives the left edge, and word 22 the top edge.
`loaders/backends/reference.py` computes the same crops slowly: one sample at a time, with Python
integers.
"""

from dataclasses import dataclass

import numpy as np

from loaders import kernel_c
from loaders.plan import LoaderPlan
from writers.random_streams import uniform, words_at

NUM_TRIES = 10  # attempts to fit a box into the image, as in torchvision's RandomResizedCrop
NUM_WORDS = 1 + 2 * NUM_TRIES + 2  # random words per crop
_FIRST_WORDS = np.array([0, 1, 2, NUM_WORDS - 2, NUM_WORDS - 1])  # flip, first try, left, top
_OTHER_TRIES = np.arange(3, NUM_WORDS - 2)


@dataclass(frozen=True)
class Crops:
    """Crop boxes of a batch. With k crops per image, the crops of an image are adjacent.

    Attributes:
        boxes: int64 [B * k, 4]: left, top, width, height in pixels of the stored image. Boxes are
            inside the image; width and height are at least 1.
        flips: bool [B * k], mirror the crop horizontally.
    """

    boxes: np.ndarray
    flips: np.ndarray

    @classmethod
    def none(cls) -> "Crops":
        """Return the crops of an empty batch."""
        return cls(np.empty((0, 4), np.int64), np.empty(0, bool))


def choose_crops(
    plan: LoaderPlan, epoch: int, ids: np.ndarray, widths: np.ndarray, heights: np.ndarray
) -> Crops:
    """Choose plan.crops_per_image crops of each sample.

    The C kernel chooses random crops without the GIL; if it was not built, numpy does. Both use the
    same random numbers. A box could differ only if the two exponential functions round to different
    sides of half a pixel, which has never been observed.

    Crop v of a sample uses the words from v * NUM_WORDS on, so the first one equals the crop of a
    plan with one crop per image.

    Args:
        plan: augmentation and seed.
        epoch: number of the epoch.
        ids: uint64 [B].
        widths: int64 [B], pixels.
        heights: int64 [B], pixels.
    """
    chooser = kernel_c.crop_chooser()
    if chooser is not None and plan.augment == "random_resized_crop":
        boxes = np.empty((len(ids), plan.crops_per_image, 4), np.int64)
        flips = np.empty((len(ids), plan.crops_per_image), bool)
        described = (
            np.ascontiguousarray(ids, np.uint64),
            *(np.ascontiguousarray(sides, np.int64) for sides in (widths, heights)),
        )
        ranges = np.array([*plan.crop_scale, *plan.crop_ratio, *np.log(plan.crop_ratio)])
        chooser(plan.seed, epoch, *described, ranges, plan.horizontal_flip, boxes, flips)
        return Crops(boxes.reshape(-1, 4), flips.ravel())
    return choose_crops_by_numpy(plan, epoch, ids, widths, heights)


def choose_crops_by_numpy(
    plan: LoaderPlan, epoch: int, ids: np.ndarray, widths: np.ndarray, heights: np.ndarray
) -> Crops:
    """Choose crops as `choose_crops` does, without the C kernel."""
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


def _random_boxes(
    plan: LoaderPlan,
    epoch: int,
    ids: np.ndarray,
    draws: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    view: int,
) -> np.ndarray:
    """Choose boxes as torchvision's RandomResizedCrop does.

    Use the first of ten tries that fits into the image, otherwise the largest centered box of an
    allowed ratio. Usually the first try fits; more words are drawn only for the other samples.
    `draws` is float64 [B, 5] in [0, 1), computed from the words _FIRST_WORDS.
    """
    ratio = plan.crop_ratio
    box_widths, box_heights, found = _try_boxes(plan, draws[:, 1], draws[:, 2], widths, heights)
    failed = np.flatnonzero(~found)
    if len(failed):
        words = words_at(plan.seed, epoch, ids[failed], _OTHER_TRIES + view * NUM_WORDS)
        tries = uniform(words).reshape(len(failed), NUM_TRIES - 1, 2)
        more_widths, more_heights, fits = _try_boxes(
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


def _try_boxes(
    plan: LoaderPlan,
    area_draws: np.ndarray,
    ratio_draws: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return widths and heights (int64) of boxes from uniform draws, and which fit (bool).

    The draws and results are arrays of one shape: [B], or [F, T] for T tries of F samples, whose
    widths and heights are then [F, 1].
    """
    (smallest, largest), ratio = plan.crop_scale, plan.crop_ratio
    areas = (widths * heights) * (smallest + (largest - smallest) * area_draws)
    low, high = np.log(ratio[0]), np.log(ratio[1])
    ratios = np.exp(low + (high - low) * ratio_draws)
    box_widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    box_heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits = (box_widths > 0) & (box_widths <= widths) & (box_heights > 0) & (box_heights <= heights)
    return box_widths, box_heights, fits


def _center_boxes(widths: np.ndarray, heights: np.ndarray, fraction: float) -> np.ndarray:
    """Return centered squares (left, top, width, height), int64 [B, 4].

    The side of a square is `fraction` of the image's shorter side.

    FFCV truncates; here sizes and corners are rounded half to even, as in torchvision's
    center_crop.
    """
    side = np.maximum(np.rint(np.minimum(widths, heights) * fraction), 1).astype(np.int64)
    left = np.rint((widths - side) / 2).astype(np.int64)
    top = np.rint((heights - side) / 2).astype(np.int64)
    return np.stack([left, top, side, side], axis=1)
