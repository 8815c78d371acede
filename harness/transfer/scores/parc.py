"""PARC: rank correlation between distances of features and distances of labels, over image pairs.

Bolya, Mittapalli and Hoffman, NeurIPS 2021. The distance of two images is 1 minus Pearson's
correlation between their vectors. The vectors are features standardized per column, or one-hot
labels. The score is Spearman's correlation between the two kinds of distances over all pairs, from
-1 to 1 (the paper multiplies it by 100). All D features are used, without principal components.

Agostinelli et al. (ECCV 2022, without PARC and SFDA) and Sorkhei et al. (2025, 23 scores on 16
datasets) compare scores, and find that no score is best in every setting. Sorkhei et al. find that
k nearest neighbors are better than every published score, so compare PARC with `knn`.
"""

from typing import Any

import numpy as np

from harness.transfer.score import check_features
from writers.errors import UserError

NEEDS = ("features",)
MAX_IMAGES = 2000  # the number of pairs grows with its square; the paper uses 500 images
CONSTANT = 1e-12  # relative standard deviation below which a column or row counts as constant
DIGITS = 12  # decimals of rounded distances, so that distances that differ by rounding are ties


def score(*, features: Any, probs: Any = None, labels: Any, seed: int = 123) -> float:
    """Return PARC, from -1 to 1.

    Args:
        features: [N, D]. If N is above MAX_IMAGES, MAX_IMAGES random images are used.
        labels: [N].
        seed: seed of the draw of images.

    Raises:
        UserError: wrong shapes, values or labels; or all distances of features or of labels are
            equal, as for one class.
    """
    from scipy.stats import rankdata

    matrix, classes, _ = check_features(features, labels)
    if len(matrix) > MAX_IMAGES:
        chosen = np.random.default_rng(seed).choice(len(matrix), MAX_IMAGES, replace=False)
        matrix, classes = matrix[chosen], classes[chosen]
    first, second = np.triu_indices(len(matrix), 1)
    # One-hot labels have only two distances. Their ranks are a linear function of this indicator.
    different = (classes[first] != classes[second]).astype(np.float64)
    if not 0 < different.sum() < len(different):
        raise UserError(
            "PARC compares pairs of one class with pairs of two classes; here all pairs are "
            + ("of one class." if not different.any() else "of two classes."),
            "Leave the score out, or use a target with several classes and images of each.",
        )
    distances = np.round(1 - _correlations(_standardized(matrix))[first, second], DIGITS)
    ranks = rankdata(distances)
    if (ranks == ranks[0]).all():
        raise UserError(
            "PARC is undefined: all images have equal distances, as with constant features.",
            "Leave the score out, or check the model's weights.",
        )
    return float(np.corrcoef(ranks, different)[0, 1])


def _standardized(matrix: np.ndarray) -> np.ndarray:
    """Scale columns to mean 0 and standard deviation 1. A constant column becomes 0."""
    scale = matrix.std(axis=0)
    varies = scale > CONSTANT * np.abs(matrix).max(axis=0)
    return np.where(varies, (matrix - matrix.mean(axis=0)) / np.where(varies, scale, 1), 0)


def _correlations(matrix: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlations between rows, [N, N]; they are 0 for a constant row."""
    centered = matrix - matrix.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centered, axis=1, keepdims=True)
    varies = lengths > CONSTANT * np.linalg.norm(matrix, axis=1, keepdims=True)
    unit = np.where(varies, centered / np.where(varies, lengths, 1), 0)
    return np.asarray(unit @ unit.T)
