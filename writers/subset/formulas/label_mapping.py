"""Label mapping: how many of a target's images a source model takes for each source class.

Zhang et al., "Selectivity Drives Productivity: Efficient Dataset Pruning for Enhanced Transfer
Learning", NeurIPS 2023 (arXiv 2310.08782): the score of a source class is the number of target
images for which the surrogate's most probable class is that class.
"""

import math
from collections.abc import Sequence

import numpy as np

from writers.subset.scores import ClassScores


def num_mapped(probs: np.ndarray) -> np.ndarray:
    """Count the images of each most probable class, int64 [C]; the first of equal ones counts.

    Args:
        probs: probabilities of the source classes, float [N, C].
    """
    counts: np.ndarray = np.bincount(probs.argmax(axis=1), minlength=probs.shape[1])
    return counts


def mean_shares(counts: list[np.ndarray]) -> np.ndarray:
    """Average the shares of the images over targets, float64 [C], so that each counts equally.

    Args:
        counts: for each target, images per source class, int64 [C]; at least one image.
    """
    shares: np.ndarray = np.mean([count / count.sum() for count in counts], axis=0)
    return shares


def scores_of(probs: Sequence[np.ndarray], classes: Sequence[str], source: str) -> ClassScores:
    """Score source classes for one or several targets.

    The score is the share of the images whose most probable class it is. Equal scores, such as
    those of the many classes that no image is taken for, are ordered by mean probability, which
    the paper leaves open.

    Args:
        probs: for each target, probabilities of the source classes, float [N, C].
        classes: names of the source classes.
        source: description of the surrogate and the images.
    """
    shares = mean_shares([num_mapped(of_target) for of_target in probs])
    means = np.mean([of_target.mean(axis=0, dtype=np.float64) for of_target in probs], axis=0)
    none = dict.fromkeys(classes, math.nan)
    return ClassScores(
        dict(zip(classes, shares.tolist(), strict=True)),
        none,
        none,
        source,
        dict(zip(classes, means.tolist(), strict=True)),
    )
