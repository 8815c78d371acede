"""Label mapping: how many of a target's images a source model takes for each source class.

Zhang et al., "Selectivity Drives Productivity: Efficient Dataset Pruning for Enhanced Transfer
Learning", NeurIPS 2023 (arXiv 2310.08782): the score of a source class is the number of target
images for which the surrogate's most probable class is that class.
"""

import numpy as np


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
