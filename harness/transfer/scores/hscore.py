"""H-score: variance of the features between classes relative to their covariance.

It is tr(cov(f)^-1 cov(E[f | y])) (Bao et al., ICIP 2019), with the pseudo-inverse if D > N. With
`shrunk`, cov(f) is the Ledoit-Wolf covariance, and the score is multiplied by 1 - its shrinkage
(Ibrahim, Ponomareva and Mazumder 2021). Prefer `shrunk` unless N is many times D.
"""

from typing import Any

import numpy as np

from harness.transfer.score import check_features

NEEDS = ("features",)


def score(*, features: Any, probs: Any = None, labels: Any, shrunk: bool = False) -> float:
    """Return the H-score, from 0 to K - 1 for K classes.

    Args:
        features: [N, D].
        labels: [N].

    Raises:
        UserError: wrong shapes, values or labels.
    """
    matrix, classes, num_classes = check_features(features, labels)
    centered = matrix - matrix.mean(axis=0)
    counts = np.bincount(classes, minlength=num_classes)
    means = np.zeros((num_classes, matrix.shape[1]))
    np.add.at(means, classes, centered)
    means /= counts[:, None]
    between = (means * counts[:, None]).T @ means / len(matrix)
    if not shrunk:
        variances, axes = np.linalg.eigh(centered.T @ centered / len(matrix))
        # Leave out directions whose variance is only a rounding error.
        kept = variances > max(1e-12 * variances[-1], (1e-13 * np.abs(matrix).max()) ** 2)
        return float(
            (((axes[:, kept].T @ between) * axes[:, kept].T).sum(axis=1) / variances[kept]).sum()
        )
    from sklearn.covariance import ledoit_wolf

    covariance, shrinkage = ledoit_wolf(matrix)
    return float((1 - shrinkage) * np.trace(np.linalg.solve(covariance, between)))


def variants(
    *, features: Any, probs: Any = None, labels: Any, device: str = "cpu"
) -> dict[str, float]:
    """Return `hscore` and `hscore_shrunk`. Arguments as in `score`."""
    return {
        "hscore": score(features=features, labels=labels),
        "hscore_shrunk": score(features=features, labels=labels, shrunk=True),
    }
