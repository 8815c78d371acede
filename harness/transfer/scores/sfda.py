"""SFDA: mean probability of the true class under a regularized Fisher discriminant, fitted twice.

Shao et al., ECCV 2022, "Not All Models Are Equal". The discriminant is a Gaussian per class with a
common covariance (1 - s) W + s tr(W) / D I: W is the covariance within classes, s = exp(-5 times
its largest eigenvalue), at least 1e-10. The first fit gives each image a confidence, the softmax of
its probabilities. The image then moves toward the mean of the other classes' means by 1 minus its
confidence, and the second fit uses the moved images and the same s.

As in the authors' code, the score is the mean probability, not its logarithm, and the identity is
scaled by tr(W) / D. The largest eigenvalue is exact here; their code uses three power iterations.

Two limits follow from the formula. The scale of the features decides the regularization: large
features get almost none. Then SFDA is 1 for any model with more features than images, as 2048
features on the 800 images of VTAB-1k; compare models there by other scores. Comparisons by others
find no score that is best in every setting (see `parc`).
"""

from typing import Any

import numpy as np

from harness.transfer.score import check_features

NEEDS = ("features",)
STRENGTH = 5.0  # of the regularization's decay with the largest eigenvalue
MIN_SHRINKAGE = 1e-10
CONSTANT = 1e-12  # variance within classes, relative to all variance, that is rounding only


def score(*, features: Any, probs: Any = None, labels: Any) -> float:
    """Return SFDA, from 0 to 1. It is 1 for a single class.

    Args:
        features: [N, D].
        labels: [N].

    Raises:
        UserError: wrong shapes, values or labels.
    """
    matrix, classes, num_classes = check_features(features, labels)
    num_features = matrix.shape[1]
    # Probabilities do not depend on the origin, nor on directions without any image.
    centered = matrix - matrix.mean(axis=0)
    if num_features > len(centered):
        left, sigma, _ = np.linalg.svd(centered, full_matrices=False)
        centered = left * sigma
    probabilities, shrinkage = _fit(centered, classes, num_classes, num_features)
    softened = np.exp(probabilities)
    own = np.arange(len(classes)), classes
    confidence = (softened[own] / softened.sum(axis=1))[:, None]
    means = _means(centered, classes, num_classes)
    others = (means.sum(axis=0) - means) / max(num_classes - 1, 1)
    mixed = confidence * centered + (1 - confidence) * others[classes]
    probabilities, _ = _fit(mixed, classes, num_classes, num_features, shrinkage)
    return float(probabilities[own].mean())


def _means(matrix: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Means of the classes, [K, D]."""
    means = np.zeros((num_classes, matrix.shape[1]))
    np.add.at(means, classes, matrix)
    return np.asarray(means / np.bincount(classes, minlength=num_classes)[:, None])


def _fit(
    matrix: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    num_features: int,
    shrinkage: float | None = None,
) -> tuple[np.ndarray, float]:
    """Return probabilities [N, K] of the discriminant's own images, and its shrinkage.

    Args:
        matrix: [N, R] in coordinates of R <= D directions.
        num_features: D, the divisor of the trace.
        shrinkage: None to compute it.
    """
    means = _means(matrix, classes, num_classes)
    within = matrix - means[classes]
    variances, axes = np.linalg.eigh(within.T @ within / len(matrix))
    variances = np.maximum(variances, 0)
    if shrinkage is None:
        shrinkage = max(float(np.exp(-STRENGTH * variances[-1])), MIN_SHRINKAGE)
    regularized = (1 - shrinkage) * variances + shrinkage * variances.sum() / num_features
    smallest = CONSTANT * float((matrix**2).mean(axis=0).sum())
    if variances.sum() <= smallest:  # constant classes: any small variance gives the same limit
        regularized = np.full_like(variances, smallest or 1.0)
    whitening = axes / np.sqrt(regularized)
    white, white_means = matrix @ whitening, means @ whitening
    logits = white @ white_means.T - (white_means**2).sum(axis=1) / 2
    logits += np.log(np.bincount(classes, minlength=num_classes) / len(classes))
    likelihoods = np.exp(logits - logits.max(axis=1, keepdims=True))
    return likelihoods / likelihoods.sum(axis=1, keepdims=True), shrinkage
