"""SFDA: mean probability of the true class under a regularized Fisher discriminant, fitted twice.

Shao et al., ECCV 2022, "Not All Models Are Equal". The discriminant has a Gaussian for each class,
with the common covariance (1 - s) W + s tr(W) / D I. W is the covariance within classes, and s is
exp(-5 times W's largest eigenvalue), at least 1e-10. The first fit gives each image a confidence,
the softmax of its probabilities. Each image is then moved toward the mean of the other classes'
means, by the fraction 1 minus its confidence. The second fit uses the moved images and the same s.

As in the authors' code, the score is the mean probability, not its logarithm, and the identity is
scaled by tr(W) / D. The largest eigenvalue is exact here; their code uses three power iterations.

The formula has a limit. The regularization depends on the scale of the features, and is almost zero
for large features. SFDA is then 1 for any model with more features than images, such as 2048
features on the 800 images of VTAB-1k; compare models there by other scores. No score is best in
every setting (see `parc`).
"""

from typing import Any

import numpy as np

from harness.transfer.score import check_features

NEEDS = ("features",)
STRENGTH = 5.0  # factor on the largest eigenvalue in the exponent of s
MIN_SHRINKAGE = 1e-10
CONSTANT = 1e-12  # within-class fraction of the variance below which it is a rounding error


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
    # Probabilities depend neither on the origin nor on directions in which no image varies.
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
    """Return the means of the classes, [K, D]."""
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
    """Fit a discriminant; return the probabilities [N, K] of its images, and its shrinkage s.

    Args:
        matrix: [N, R], coordinates of the images in R <= D directions.
        classes: class of each image, [N].
        num_classes: K.
        num_features: D, the divisor of the trace.
        shrinkage: s; None computes it.
    """
    means = _means(matrix, classes, num_classes)
    within = matrix - means[classes]
    variances, axes = np.linalg.eigh(within.T @ within / len(matrix))
    variances = np.maximum(variances, 0)
    if shrinkage is None:
        shrinkage = max(float(np.exp(-STRENGTH * variances[-1])), MIN_SHRINKAGE)
    regularized = (1 - shrinkage) * variances + shrinkage * variances.sum() / num_features
    smallest = CONSTANT * float((matrix**2).mean(axis=0).sum())
    if variances.sum() <= smallest:  # classes are constant: all small variances give the same limit
        regularized = np.full_like(variances, smallest or 1.0)
    whitening = axes / np.sqrt(regularized)
    white, white_means = matrix @ whitening, means @ whitening
    logits = white @ white_means.T - (white_means**2).sum(axis=1) / 2
    logits += np.log(np.bincount(classes, minlength=num_classes) / len(classes))
    likelihoods = np.exp(logits - logits.max(axis=1, keepdims=True))
    return likelihoods / likelihoods.sum(axis=1, keepdims=True), shrinkage
