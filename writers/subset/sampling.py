"""Choose images by draws on sample ids, independent of order and source.

Each function takes ids (uint64 [N]) and labels (int64 [N]) and returns the positions of the chosen
images in ascending order.
"""

import re
from pathlib import Path

import numpy as np

from writers.errors import UserError
from writers.random_streams import random_bits, sample_ids


def num_per_class(num_images: int, seed: int, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Take a number of images per label, or all if there are fewer."""
    return _first_of_each(ids, labels, np.full(labels.max(initial=0) + 1, num_images), seed)


def fraction_per_class(
    fraction: float, seed: int, ids: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Take a fraction of each label's images, at least one."""
    wanted = np.maximum(np.floor(np.bincount(labels) * fraction + 0.5).astype(np.int64), 1)
    return _first_of_each(ids, labels, wanted, seed)


def spread_over_classes(
    num_images: int, seed: int, ids: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Take a number of images in total, spread evenly over labels."""
    return _first_of_each(ids, labels, _num_per_label(num_images, seed, ids, labels), seed)


def listed_ids(wanted: np.ndarray, source: str, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Take the images with the ids `wanted`.

    Raises UserError with their source if some are missing.
    """
    if num_missing := int((~np.isin(wanted, ids)).sum()):
        raise UserError(
            f"{source} names {num_missing} training images that are not in the subset's source."
        )
    return np.flatnonzero(np.isin(ids, wanted))


def read_ids(path: Path) -> np.ndarray:
    """Parse lines to ids, uint64 [lines].

    `train/n01440764/n01440764_10026.JPEG` is the image n01440764/n01440764_10026.
    """
    lines = [
        line.strip()
        for line in path.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    ids = {line for line in lines if re.fullmatch("0x[0-9a-fA-F]{16}", line)}
    if wrong := [line for line in lines if "/" not in line and line not in ids]:
        raise UserError(
            f"{path}: '{wrong[0]}' is not a class and an image.",
            "Example: n01440764/n01440764_10026.",
        )
    names = ["/".join(line.rsplit(".", 1)[0].split("/")[-2:]) for line in lines if line not in ids]
    return np.concatenate([sample_ids(names), np.array([int(line, 16) for line in ids], np.uint64)])


def _first_of_each(
    ids: np.ndarray, labels: np.ndarray, wanted: np.ndarray, seed: int
) -> np.ndarray:
    """Positions, ascending, of the first `wanted[label]` images per label in drawn order."""
    order = np.lexsort((random_bits(seed, "images", ids), labels))
    first = np.searchsorted(labels[order], np.arange(len(wanted)))  # start of each label
    rank = np.arange(len(order)) - first[labels[order]]
    return np.sort(order[rank < wanted[labels[order]]])


def _num_per_label(num_images: int, seed: int, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Spread `num_images` over labels as evenly as their counts allow.

    The remainder goes to the labels whose next image has the lowest draw, so that it depends only
    on ids and not on the numbering of classes.
    """
    counts = np.bincount(labels)
    if num_images > counts.sum():
        raise UserError(
            f"The subset's budget is {num_images:,} images; its classes have {counts.sum():,}."
        )
    low, high = 0, int(counts.max(initial=0))
    while low < high:  # the largest equal number within the budget
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if np.minimum(counts, middle).sum() <= num_images else (low, middle - 1)
        )
    wanted = np.minimum(counts, low)
    with_more = np.flatnonzero(counts > low)
    words = random_bits(seed, "images", ids)
    order = np.lexsort((words, labels))
    first = np.searchsorted(labels[order], with_more)
    by_next_image = with_more[np.argsort(words[order[first + low]], kind="stable")]
    wanted[by_next_image[: num_images - int(wanted.sum())]] += 1
    return wanted
