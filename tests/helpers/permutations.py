"""A permutation test for any metric, as oracle for the exact and compiled tests of the report."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def permutation_test(
    metric: Callable[[Array], float],
    predictions: Array,
    other_predictions: Array,
    *,
    seed: int = 0,
    num_permutations: int = 10_000,
) -> float:
    """Compute the p-value of the hypothesis that the models are interchangeable, e.g. for mAP.

    Each permutation exchanges the two models' predictions for each image with probability 1/2. The
    observed assignment counts as one permutation, so p is never 0.

    Args:
        metric: maps predictions [N, ...] to a number.
        predictions: predictions of the first model, [N, ...].
        other_predictions: predictions of the second model, [N, ...].
        seed: seed of the random permutations.
        num_permutations: number of permutations.
    """
    random = np.random.default_rng(seed)
    observed = abs(metric(predictions) - metric(other_predictions))
    shape = (-1,) + (1,) * (predictions.ndim - 1)
    num_extreme = 0
    for _ in range(num_permutations):
        exchanged = (random.random(len(predictions)) < 0.5).reshape(shape)
        first = np.where(exchanged, other_predictions, predictions)
        second = np.where(exchanged, predictions, other_predictions)
        num_extreme += abs(metric(first) - metric(second)) >= observed - 1e-12
    return (num_extreme + 1) / (num_permutations + 1)
