"""Compute Elo-based predictive power: a strength per model, from pairwise wins in many rounds.

The method is that of Gosiewska, Woznica and Biecek 2022. A round is a dataset and a seed. In each
round, every two models have a match, and the better score wins. The strengths are fitted to logit
P(i beats j) = strength_i - strength_j by maximum likelihood, with a small ridge, since a model that
wins everywhere has no finite strength. A tie is half a win for each model; the published R code
rounds it down to no win. Strengths are not tested here: the standard error of a model that wins
every match grows with its strength, so Wald's test would find this model the least clearly
different (Hauck and Donner 1977).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
RIDGE = 1e-3
MAX_STEPS = 100  # largest number of steps of Newton's method; a few suffice


@dataclass(frozen=True)
class Strengths:
    """Strengths of M models, with sum 0.

    Attributes:
        strengths: float64 [M], log odds.
        covariance: float64 [M, M], covariance of the errors of the strengths.
        deviance: deviance per degree of freedom. A value far above 1 means a bad fit. NaN if no
            degree of freedom is left.
    """

    strengths: Floats
    covariance: Floats
    deviance: float
    num_matches: int

    def probability(self, first: int, second: int) -> float:
        """Probability that model `first` beats model `second` in a new round."""
        return float(special.expit(self.strengths[first] - self.strengths[second]))


def count_wins(rounds: Sequence[Floats]) -> Floats:
    """Count how often model i beat model j: float64 [M, M]. A tie is half a win for each model.

    Args:
        rounds: scores [M] of each round; NaN means that the model did not take part.
    """
    num_models = len(rounds[0])
    wins = np.zeros((num_models, num_models))
    for scores in rounds:
        difference = scores[:, None] - scores[None, :]
        wins += np.where(np.isnan(difference), 0.0, (np.sign(difference) + 1) / 2)
    np.fill_diagonal(wins, 0)
    return wins


def fit(wins: Floats, *, ridge: float = RIDGE) -> Strengths:
    """Fit strengths to wins [M, M] with Newton's method.

    The loss is convex and smooth, so a few solves of an [M, M] system suffice, even for hundreds
    of models.

    Args:
        wins: result of `count_wins`.
        ridge: weight of the sum of squares in the negative log-likelihood.
    """
    num_models = len(wins)
    matches = wins + wins.T

    def loss(strengths: Floats) -> float:
        return float(
            -(wins * special.log_expit(strengths[:, None] - strengths)).sum()
            + ridge * (strengths**2).sum()
        )

    def expected(strengths: Floats) -> tuple[Floats, Floats]:
        """Return the probability of each win [M, M], and the Hessian of `loss` [M, M]."""
        probability = special.expit(strengths[:, None] - strengths)
        information = -matches * probability * (1 - probability)
        np.fill_diagonal(information, 0)
        np.fill_diagonal(information, 2 * ridge - information.sum(axis=1))
        return probability, information

    strengths = np.zeros(num_models)
    probability, information = expected(strengths)
    for _ in range(MAX_STEPS):
        gradient = (matches * probability - wins).sum(axis=1) + 2 * ridge * strengths
        if np.abs(gradient).max() < 1e-9 * max(1.0, matches.sum()):
            break
        step = np.linalg.solve(information, gradient)
        current = loss(strengths)
        while loss(strengths - step) > current and np.abs(step).max() > 1e-12:
            step /= 2
        strengths = strengths - step
        probability, information = expected(strengths)
    # The strengths sum to 0, so remove the error of their common level.
    centering = np.eye(num_models) - 1 / num_models
    return Strengths(
        strengths - strengths.mean(),
        centering @ np.linalg.inv(information) @ centering,
        _deviance(wins, matches, probability, num_models),
        round(float(matches.sum()) / 2),
    )


def _deviance(wins: Floats, matches: Floats, probability: Floats, num_models: int) -> float:
    upper = np.triu(matches > 0, 1)
    won, played, expected = wins[upper], matches[upper], probability[upper]
    deviance = (
        2
        * (
            special.rel_entr(won, played * expected)
            + special.rel_entr(played - won, played * (1 - expected))
        ).sum()
    )
    degrees = int(upper.sum()) - (num_models - 1)
    return float(deviance / degrees) if degrees > 0 else math.nan
