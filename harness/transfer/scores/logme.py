"""LogME: maximum evidence of a Bayesian linear model from features to one-hot labels.

You, Liu, Wang and Long, ICML 2021. The evidence is maximized over the precisions alpha (of the
weights) and beta (of the noise), by the fixed-point iteration of the JMLR 2022 version: gamma = sum
sigma^2 / (sigma^2 + t) with t = alpha / beta, alpha = gamma / |m|^2, beta = (N - gamma) / |f m -
y|^2. Here f are the features, sigma their singular values, y the one-hot labels of a class, and m
the posterior mean of the weights. The score is the mean over classes of the log-evidence per
sample. The determinant in the evidence includes all D directions, even if D > N.
"""

from typing import Any

import numpy as np

from harness.transfer.score import check_targets

NEEDS = ("features",)
MAX_ITERATIONS = 11
TOLERANCE = 1e-3  # relative change of t below which the iteration stops
FLOOR = 1e-5  # added to |m|^2 and the residual, as in the authors' code


def score(*, features: Any, probs: Any = None, labels: Any) -> float:
    """Return LogME.

    Args:
        features: [N, D].
        labels: [N], or [N, K] for several labels per image.

    Raises:
        UserError: wrong shapes, values or labels.
    """
    matrix, targets = check_targets(features, labels)
    left, sigma, _ = np.linalg.svd(matrix, full_matrices=False)
    return float(np.mean([_evidence(left, sigma, matrix.shape, target) for target in targets.T]))


def _evidence(
    left: np.ndarray, sigma: np.ndarray, shape: tuple[int, ...], target: np.ndarray
) -> float:
    """Return the log-evidence per sample for one target [N], from the features' SVD."""
    num_images, num_features = shape
    variances = sigma**2
    projected = left.T @ target
    # Squared norm of the part of the target outside the span of the features.
    outside = max(float(target @ target - projected @ projected), 0.0)
    t = 1.0
    for _ in range(MAX_ITERATIONS):
        gamma = (variances / (variances + t)).sum()
        mean_squared = (variances * projected**2 / (variances + t) ** 2).sum()
        residual = (projected**2 * (t / (variances + t)) ** 2).sum() + outside
        alpha, beta = gamma / (mean_squared + FLOOR), (num_images - gamma) / (residual + FLOOR)
        before, t = t, alpha / beta
        if abs(t - before) / before <= TOLERANCE:
            break
    log_determinant = np.log(alpha + beta * variances).sum() + (
        num_features - len(variances)
    ) * np.log(alpha)
    evidence = (
        num_features * np.log(alpha)
        + num_images * np.log(beta)
        - log_determinant
        - beta * residual
        - alpha * mean_squared
        - num_images * np.log(2 * np.pi)
    ) / 2
    return float(evidence / num_images)
