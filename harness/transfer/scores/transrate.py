"""TransRate: coding rate of the features minus their coding rate given the class.

TransRate is R(f) minus the mean over classes of R(f_c), with R(f) = 1/2 log det(I + f^T f / (N
eps)), centered features f, and eps = 1e-4 (Huang et al., ICML 2022).
"""

from typing import Any

import numpy as np

from harness.transfer.score import check_features

NEEDS = ("features",)
EPS = 1e-4


def score(*, features: Any, probs: Any = None, labels: Any) -> float:
    """Return TransRate, in nats.

    Args:
        features: [N, D].
        labels: [N].

    Raises:
        UserError: wrong shapes, values or labels.
    """
    matrix, classes, num_classes = check_features(features, labels)
    centered = matrix - matrix.mean(axis=0)
    within = [_rate(centered[classes == label]) for label in range(num_classes)]
    return _rate(centered) - float(np.mean(within))


def _rate(features: np.ndarray) -> float:
    """Compute the coding rate from the smaller of f^T f and f f^T; det(I + .) is the same."""
    num_images, num_features = features.shape
    gram = features.T @ features if num_features <= num_images else features @ features.T
    return float(np.linalg.slogdet(np.eye(len(gram)) + gram / (num_images * EPS))[1]) / 2
