"""Label mapping: count the images of a target that a model assigns to each source class.

Zhang et al., "Selectivity Drives Productivity: Efficient Dataset Pruning for Enhanced Transfer
Learning", NeurIPS 2023 (arXiv 2310.08782): the score of a source class is the number of target
images for which it is the most probable class according to a model of the source classes, the
surrogate.
"""

import math
from collections.abc import Sequence

import numpy as np

from writers.subset.scores import ClassScores


def num_mapped(probs: np.ndarray) -> np.ndarray:
    """Count the images for which each class is the most probable, int64 [C]. The first wins ties.

    Args:
        probs: probabilities of the source classes, float [N, C].
    """
    counts: np.ndarray = np.bincount(probs.argmax(axis=1), minlength=probs.shape[1])
    return counts


def mean_shares(counts: list[np.ndarray]) -> np.ndarray:
    """Average the shares of the images over targets, float64 [C]. Targets have equal weight.

    Args:
        counts: for each target, images per source class, int64 [C]; each target has images.
    """
    shares: np.ndarray = np.mean([count / count.sum() for count in counts], axis=0)
    return shares


def scores_of(probs: Sequence[np.ndarray], classes: Sequence[str], source: str) -> ClassScores:
    """Score source classes for one or several targets.

    The score of a class is the share of the images for which it is the most probable class, so that
    targets have equal weight. Many classes have the same score, such as 0. They are ordered by mean
    probability; the paper does not define their order. The scores have no intervals (NaN).

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
