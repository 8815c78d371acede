"""GBC: how little the Gaussians of the classes overlap (Pandy et al., CVPR 2022).

GBC is minus the sum, over pairs of classes, of the Bhattacharyya coefficients of their Gaussians.
The covariances are diagonal, or, with `spherical`, have one variance per class. Features are
reduced to 64 principal components, as in the paper. Variances are at least 1e-4.
"""

from typing import Any

import numpy as np

from harness.transfer.score import check_features

NEEDS = ("features",)
NUM_COMPONENTS = 64
FLOOR = 1e-4


def score(*, features: Any, probs: Any = None, labels: Any, spherical: bool = False) -> float:
    """Return GBC, at most 0: minus the sum over ordered pairs of classes.

    Args:
        features: [N, D].
        labels: [N].

    Raises:
        UserError: wrong shapes, values or labels.
    """
    matrix, classes, num_classes = check_features(features, labels)
    centered = matrix - matrix.mean(axis=0)
    if matrix.shape[1] > NUM_COMPONENTS:
        _, _, right = np.linalg.svd(centered, full_matrices=False)
        centered = centered @ right[:NUM_COMPONENTS].T
    groups = [centered[classes == label] for label in range(num_classes)]
    means = np.stack([group.mean(axis=0) for group in groups])
    variances = np.stack([np.maximum(group.var(axis=0), FLOOR) for group in groups])
    if spherical:
        variances = np.broadcast_to(variances.mean(axis=1, keepdims=True), variances.shape)
    total = 0.0
    # Compute one row of pairs at a time: [K, K, D] does not fit in memory for SUN397.
    for first in range(num_classes - 1):
        joint = (variances[first] + variances[first + 1 :]) / 2
        distance = ((means[first] - means[first + 1 :]) ** 2 / joint).sum(axis=1) / 8
        distance += 0.5 * (
            np.log(joint) - 0.5 * (np.log(variances[first]) + np.log(variances[first + 1 :]))
        ).sum(axis=1)
        total += 2 * np.exp(-distance).sum()
    return -float(total)
