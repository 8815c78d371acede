"""Choose images by draws from sample ids, so that their order and storage do not matter.

Each of the choosers takes ids (uint64 [N]) and labels (int64 [N]), and returns the positions of the
chosen images in ascending order.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from writers.errors import UserError
from writers.random_streams import random_bits, sample_ids
from writers.subset.lists import read_class_list
from writers.subset.scores import ImageScores, Part
from writers.text_names import counted


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
    """Take a number of images in total, spread evenly over labels. Raises UserError if too few."""
    return _first_of_each(ids, labels, _num_per_label(num_images, seed, ids, labels), seed)


def listed_ids(wanted: np.ndarray, source: str, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Take the images with the ids `wanted`, uint64 [M].

    If some are missing, raises UserError, which names the `source` of these ids.
    """
    if num_missing := int((~np.isin(wanted, ids)).sum()):
        raise UserError(
            f"{source} names {num_missing} training images that are not in the subset's source.",
            "Correct the names: <class>/<image> as in the source's folders.",
        )
    return np.flatnonzero(np.isin(ids, wanted))


def part_by_score(
    scores: ImageScores,
    part: Part,
    share: float,
    balanced: bool,
    seed: int,
    ids: np.ndarray,
    labels: np.ndarray,
) -> np.ndarray:
    """Take the hardest, easiest or middle images by score. Equal scores are in random order.

    Args:
        scores: scores of these images.
        part: which images to take.
        share: fraction of the images to take, above 0 and below 1; at least one image is taken.
        balanced: take the share of the images of each label instead of all images.
        seed: seed of the order of equal scores.
        ids: uint64 [N].
        labels: int64 [N].

    Returns:
        Positions, int64 [M], ascending.
    """
    values = scores.values[scores.positions(ids)]
    groups = labels if balanced else np.zeros(len(ids), np.int64)
    order = np.lexsort((random_bits(seed, "scores", ids), values, groups))
    counts = np.bincount(groups)
    first = np.cumsum(counts) - counts
    place = np.arange(len(ids)) - first[groups[order]]  # rank in the image's group, easiest first
    wanted = np.minimum(counts, np.maximum(1, np.floor(counts * share + 0.5).astype(np.int64)))
    start = {"easiest": 0 * counts, "hardest": counts - wanted, "middle": (counts - wanted) // 2}
    begin = start[part][groups[order]]
    kept = (place >= begin) & (place < begin + wanted[groups[order]])
    return np.sort(order[kept])


def in_top_clusters(
    scores: ImageScores, keep: int | float, ids: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Take the images of the clusters with the highest scores. The first clusters win ties.

    Args:
        scores: scores of these images, with clusters.
        keep: number of clusters, or their fraction.
        ids: uint64 [N].
        labels: not used.

    Returns:
        Positions, int64 [M], ascending.
    """
    assert scores.clusters is not None
    numbers, first = np.unique(scores.clusters, return_index=True)
    by_score = numbers[np.argsort(-scores.values[first], kind="stable")]
    wanted = keep if isinstance(keep, int) else max(1, int(keep * len(numbers) + 0.5))
    return np.flatnonzero(np.isin(scores.clusters[scores.positions(ids)], by_score[:wanted]))


def read_ids(path: Path) -> np.ndarray:
    """Read the ids of a file with one image per line, uint64 [lines].

    `train/n01440764/n01440764_10026.JPEG` is the image n01440764/n01440764_10026.
    """
    return ids_of(read_class_list(path), path)


def ids_of(lines: Sequence[str], path: Path) -> np.ndarray:
    """Return the id of each image, uint64 [N], from `<class>/<image>` or from 0x and 16 digits.

    Raises:
        UserError: a line has neither form.
    """
    ids = {line for line in lines if re.fullmatch("0x[0-9a-fA-F]{16}", line)}
    if wrong := [line for line in lines if "/" not in line and line not in ids]:
        raise UserError(
            f"{path}: '{wrong[0]}' is not a class and an image.",
            "Example: n01440764/n01440764_10026.",
        )
    paths = (line.split("/") for line in lines if line not in ids)
    # Only the image has an extension: names of classes may have a dot, too.
    by_name = sample_ids(f"{path[-2]}/{path[-1].rsplit('.', 1)[0]}" for path in paths)
    names = iter(by_name.tolist())
    return np.array([int(line, 16) if line in ids else next(names) for line in lines], np.uint64)


def _first_of_each(
    ids: np.ndarray, labels: np.ndarray, wanted: np.ndarray, seed: int
) -> np.ndarray:
    """Return the positions, ascending, of `wanted[label]` randomly drawn images of each label."""
    order = np.lexsort((random_bits(seed, "images", ids), labels))
    first = np.searchsorted(labels[order], np.arange(len(wanted)))  # start of each label
    rank = np.arange(len(order)) - first[labels[order]]
    return np.sort(order[rank < wanted[labels[order]]])


def _num_per_label(num_images: int, seed: int, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the number of images to take of each label, int64 [K], `num_images` in total.

    They are spread over labels as evenly as the labels' counts allow. The remainder goes to the
    labels whose next image has the lowest random number. The choice thus depends on ids, not on the
    order of the labels. Raises UserError if there are fewer images.
    """
    counts = np.bincount(labels)
    if num_images > counts.sum():
        raise UserError(
            f"The subset's budget is {counted(num_images, 'image')}; its classes have "
            f"{counts.sum():,}.",
            "Choose a smaller budget, or keep more classes.",
        )
    low, high = 0, int(counts.max(initial=0))
    while low < high:  # find the largest number per label that does not exceed the budget
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
