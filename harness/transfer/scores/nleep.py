"""NLEEP: LEEP with components of a Gaussian mixture on the features instead of source classes.

Li et al., CVPR 2021, "Ranking Neural Checkpoints". Features are reduced to the principal components
that keep 80 % of the variance. A Gaussian mixture with 5 components per class and full covariances
is fitted to them, on the same images.

`details` reports two fallbacks. The number of components must be below the number of images. If 5
per class are too many, as in VTAB-1k with 100 classes, the mixture has 4, 3, 2 or 1 per class. If 1
per class is too many, it has one component fewer than images. With more than MAX_COMPONENTS
components, covariances are diagonal, because SUN397's 1,985 full covariances take hours.
"""

import warnings
from typing import Any

import numpy as np

from harness.transfer.score import check_features
from harness.transfer.scores.leep import log_likelihood

NEEDS = ("features",)
VARIANCE_KEPT = 0.8
COMPONENTS_PER_CLASS = 5
MAX_COMPONENTS = 600  # largest number of components with full covariances


def score(*, features: Any, probs: Any = None, labels: Any, seed: int = 123) -> float:
    """Return NLEEP, at most 0.

    Args:
        features: [N, D].
        labels: [N].
        seed: seed of the mixture's initial values.

    Raises:
        UserError: wrong shapes, values or labels.
    """
    return float(details(features=features, labels=labels, seed=seed)["score"])


def details(*, features: Any, labels: Any, seed: int = 123) -> dict[str, Any]:
    """Return `score`, and parameters of the computation.

    Arguments as in `score`. The parameters are `num_dimensions` (principal components),
    `num_components` and `wanted_components` (used and wanted components of the mixture),
    `covariances` ("full" or "diag"), and `converged`.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    matrix, classes, num_classes = check_features(features, labels)
    wanted = COMPONENTS_PER_CLASS * num_classes
    num_components = next(
        (
            a_class * num_classes
            for a_class in range(COMPONENTS_PER_CLASS, 0, -1)
            if a_class * num_classes < len(matrix)
        ),
        max(1, len(matrix) - 1),
    )
    covariances = "full" if num_components <= MAX_COMPONENTS else "diag"
    reduced = (
        PCA(n_components=VARIANCE_KEPT, svd_solver="full").fit_transform(matrix)
        if matrix.shape[1] > 1
        else matrix
    )
    mixture = GaussianMixture(num_components, covariance_type=covariances, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result reports it
        posteriors = mixture.fit(reduced).predict_proba(reduced)
    return {
        "score": log_likelihood(np.asarray(posteriors, np.float64), classes, num_classes),
        "num_dimensions": int(reduced.shape[1]),
        "num_components": num_components,
        "wanted_components": wanted,
        "covariances": covariances,
        "converged": bool(mixture.converged_),
    }
