"""Influence of a source class on a target dataset, by models pretrained on halves of the classes.

Jain et al., "A Data-Based Perspective on Transfer Learning", CVPR 2023 (arXiv 2207.05739), Eq. 1:
the mean accuracy on the target of models pretrained with the class, minus that of models pretrained
without it. The halves are random. The interval is a percentile bootstrap over models.
"""

from typing import NamedTuple

import numpy as np

DRAWS = 1000  # bootstrap draws


class Influence(NamedTuple):
    """Influence of each class, and its 95 % interval, float64 [C].

    The influence of a class is NaN if all models, or none, were pretrained on the class. Its
    interval is NaN if the influence is NaN in a tenth of the bootstrap draws or more.
    """

    value: np.ndarray
    low_95: np.ndarray
    high_95: np.ndarray


def influence(had: np.ndarray, accuracy: np.ndarray, *, seed: int, draws: int = DRAWS) -> Influence:
    """Compute influences and their intervals.

    Args:
        had: True if model m was pretrained on class c, bool [M, C].
        accuracy: accuracy of model m on the target, float [M].
        seed: seed of the bootstrap.
        draws: number of bootstrap draws.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    num_models = len(accuracy)
    drawn = generator.multinomial(num_models, np.full(num_models, 1 / num_models), draws)
    samples = differences(had, accuracy, drawn.astype(np.float64))
    few = np.isnan(samples).mean(axis=0) >= 0.1
    low, high = np.full((2, had.shape[1]), np.nan)
    if not few.all():
        low[~few], high[~few] = np.nanpercentile(samples[:, ~few], (2.5, 97.5), axis=0)
    return Influence(differences(had, accuracy, np.ones((1, num_models)))[0], low, high)


def differences(had: np.ndarray, accuracy: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the weighted mean accuracy of models with each class minus that of models without.

    Args:
        had: True if model m was pretrained on class c, bool [M, C].
        accuracy: accuracy of model m, float [M].
        weights: weights of the models in each draw, float64 [B, M].

    Returns:
        float64 [B, C]; NaN if the models with the class, or those without it, have no weight.
    """
    having = had.astype(np.float64)
    num_with, num = weights @ having, weights.sum(axis=1, keepdims=True)
    sum_with, total = (weights * accuracy) @ having, (weights @ accuracy)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        difference: np.ndarray = sum_with / num_with - (total - sum_with) / (num - num_with)
    # If all models have the class, rounding may leave a numerator above 0, and thus infinity.
    difference[(num_with == 0) | (num_with == num)] = np.nan
    return difference
