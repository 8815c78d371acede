# mypy: disable-error-code="no-untyped-def"
"""Test the difference of two 11-point mAPs by random permutations of the models' scores.

Each class is sorted once instead of once per permutation, and compiled code computes all
permutations together. Shapes: N images, K classes, P permutations.
"""

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.signedinteger]


def map11_difference(scores: Floats, other_scores: Floats, labels: Integers) -> float:
    """Compute the first 11-point mAP minus the second; arguments as in `map11_permutation_test`."""
    return _observed(_merge_all(scores, other_scores, labels), len(labels))


def map11_permutation_test(
    scores: Floats,
    other_scores: Floats,
    labels: Integers,
    *,
    seed: int = 0,
    num_permutations: int = 1000,
) -> tuple[float, float]:
    """Compute p of "the models are interchangeable on every image" for 11-point mAP.

    The scores of an image for all classes are exchanged together. Images with equal scores share a
    threshold.

    Args:
        scores: float [N, K], finite, of the first model.
        other_scores: scores of the second model, of the same shape.
        labels: integers [N, K]: 1 present, 0 difficult (ignored), -1 absent.
        seed: seed of the random permutations.
        num_permutations: number of permutations.

    Returns:
        The first model's mAP minus the second one's, and p.
    """
    classes = _merge_all(scores, other_scores, labels)
    observed = _observed(classes, len(labels))
    differences = _differences(classes, _exchanges(len(labels), num_permutations, seed))
    num_extreme = int((np.abs(differences) >= abs(observed) - 1e-12).sum())
    return observed, (num_extreme + 1) / (num_permutations + 1)


@lru_cache(maxsize=1)
def _exchanges(num_images: int, num_permutations: int, seed: int) -> NDArray[np.int8]:
    """Draw int8 [N, P]: 1 if the image is exchanged. Tests with equal arguments share the draw."""
    random = np.random.default_rng(seed)
    exchanged = np.empty((num_images, num_permutations), np.int8)
    for column in range(num_permutations):
        exchanged[:, column] = random.random(num_images) < 0.5
    exchanged.flags.writeable = False
    return exchanged


def _observed(classes: "list[_Merged]", num_images: int) -> float:
    nothing = np.zeros((num_images, 1), np.int8)
    nothing.flags.writeable = False  # like the result of `_exchanges`, so that numba compiles once
    return float(_differences(classes, nothing)[0])


_Merged = tuple[Integers, NDArray[np.int8], NDArray[np.int8]]


def _merge_all(scores: Floats, other_scores: Floats, labels: Integers) -> list[_Merged]:
    """Merge both models' scores of each class into one list, sorted by decreasing score.

    Classes that no image has are left out.

    Returns:
        For each class, three arrays with one value per entry of the list. The first has the index
        of the image. The second has 1 if the score is the second model's, otherwise 0. The third
        has a sum of flags: 1 if the class is present in the image, 2 if the entry is the last one
        with its score.
    """
    classes = []
    for label in np.flatnonzero((labels == 1).any(axis=0)):
        sure = np.flatnonzero(labels[:, label] != 0)
        both = np.concatenate([scores[sure, label], other_scores[sure, label]])
        order = np.argsort(-both, kind="stable")
        values, image = both[order], sure[order % len(sure)]
        is_last = np.append(values[1:] != values[:-1], True)
        marks = (labels[image, label] == 1) + 2 * is_last
        classes.append((image, (order >= len(sure)).astype(np.int8), marks.astype(np.int8)))
    return classes


def _differences(classes: list[_Merged], exchanged: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return the differences of mAP [P] after exchanging images where `exchanged` [N, P] is 1."""
    sums = np.zeros(exchanged.shape[1])
    for image, is_second, marks in classes:
        _add_differences(image, is_second, marks, exchanged, sums)
    return sums / (11 * len(classes))


@njit(nogil=True, error_model="numpy", cache=True)
def _add_differences(image, is_second, marks, exchanged, sums):
    """Add 11 times the differences of average precision [P] of one class to `sums`.

    The threshold rises from the lowest score to the highest, and entries below it are removed. Only
    thresholds that are the score of an image with the class matter: between two of them, recall is
    that of the upper one, and precision is not higher.
    """
    num_entries, num_columns = len(image), exchanged.shape[1]
    both = num_entries
    both_positive = 0
    for entry in range(num_entries):
        both_positive += marks[entry] & 1
    num_positive = both_positive // 2
    # needed[i + 1] is the number of images with the class at which recall reaches i / 10. Computed
    # with integers, because in floats 3 / 10 < 3 * 0.1. No count is below needed[0], which ends the
    # loops over recalls.
    needed = np.empty(12, np.int32)
    needed[0] = -1
    for tenths in range(11):
        needed[tenths + 1] = (tenths * num_positive + 9) // 10
    # count and positive: images of the first model that are not below the threshold, and those of
    # them with the class. The second model's are the rest of `both` and of `both_positive`.
    # step and best: number of recalls that are still reached, and highest precision so far, of the
    # first model. other_step and other_best: of the second model.
    count = np.full(num_columns, num_entries // 2, np.int32)
    positive = np.full(num_columns, num_positive, np.int32)
    step, other_step = np.full(num_columns, 11, np.int32), np.full(num_columns, 11, np.int32)
    best, other_best = np.zeros(num_columns), np.zeros(num_columns)
    end = num_entries
    while end:
        start, has_positive = end - 1, marks[end - 1] & 1
        while start and not marks[start - 1] & 2:
            start -= 1
            has_positive |= marks[start] & 1
        if has_positive:
            for column in range(num_columns):
                while positive[column] < needed[step[column]]:
                    sums[column] += best[column]
                    step[column] -= 1
                while both_positive - positive[column] < needed[other_step[column]]:
                    sums[column] -= other_best[column]
                    other_step[column] -= 1
            for column in range(num_columns):
                precision = positive[column] / max(count[column], 1)
                best[column] = max(best[column], precision)
                other_precision = (both_positive - positive[column]) / max(both - count[column], 1)
                other_best[column] = max(other_best[column], other_precision)
        for entry in range(start, end):
            flags, second = exchanged[image[entry]], is_second[entry]
            both -= 1
            for column in range(num_columns):
                count[column] -= flags[column] == second
            if marks[entry] & 1:
                both_positive -= 1
                for column in range(num_columns):
                    positive[column] -= flags[column] == second
        end = start
    for column in range(num_columns):
        sums[column] += step[column] * best[column] - other_step[column] * other_best[column]
