"""TransRate: how many bits a sample needs at a given precision, less what it needs once its class is known.

Huang et al., ICML 2022: R(f) - mean over classes of R(f_c), with R(f) = 1/2 log det(I + f^T f / (N eps)) on centred features
and eps = 1e-4.
"""

from typing import Any

import numpy as np

from harness.transfer.score import checked_features

NEEDS = ("features",)
EPS = 1e-4


def score(*, features: Any, probs: Any = None, labels: Any) -> float:
    """TransRate, in nats. features [N, D], labels [N]. Raises UserError for what does not fit."""
    matrix, classes, num_classes = checked_features(features, labels)
    centred = matrix - matrix.mean(axis=0)
    within = [_rate(centred[classes == label]) for label in range(num_classes)]
    return _rate(centred) - float(np.mean(within))


def _rate(features: np.ndarray) -> float:
    """By the smaller of f^T f and f f^T, whose determinants with I are the same."""
    num_images, num_features = features.shape
    gram = features.T @ features if num_features <= num_images else features @ features.T
    return float(np.linalg.slogdet(np.eye(len(gram)) + gram / (num_images * EPS))[1]) / 2
