"""Elo-based predictive power: one strength per model from who beat whom, round by round (Gosiewska, Woznica and Biecek 2022).

A round is a dataset (and seed); in it every two models meet, and the better score wins. logit P(i beats j) = strength_i -
strength_j, fitted by maximum likelihood with a small ridge, since a model that wins everywhere has no finite strength. Ties
are half a win each: the published R code floors them away. Nothing is tested here: by Wald's test the model that wins every
match differs least clearly from the others, since its error grows with its strength (Hauck and Donner 1977).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

RIDGE = 1e-3
MOST_STEPS = 100


@dataclass(frozen=True)
class Strengths:
    """Strengths of M models, with sum 0, and the covariance of their errors [M, M]."""

    strengths: np.ndarray
    covariance: np.ndarray
    deviance: float  # per degree of freedom; far above 1: the model does not fit the rounds
    num_matches: int

    def probability(self, first: int, second: int) -> float:
        """That `first` beats `second` in a new round."""
        return float(special.expit(self.strengths[first] - self.strengths[second]))


def wins_of(rounds: Sequence[np.ndarray]) -> np.ndarray:
    """float [M, M]: how often model i beat model j over rounds of scores [M]; half for a tie. NaN: not in that round."""
    num_models = len(rounds[0])
    wins = np.zeros((num_models, num_models))
    for scores in rounds:
        better = scores[:, None] - scores[None, :]
        wins += np.where(np.isnan(better), 0.0, (np.sign(better) + 1) / 2)
    np.fill_diagonal(wins, 0)
    return wins


def fit(wins: np.ndarray, *, ridge: float = RIDGE) -> Strengths:
    """Strengths from wins [M, M]. `ridge`: weight of the sum of squares in the negative log-likelihood.

    Newton's method: the loss is convex and smooth, so that a few solves of [M, M] do, also for hundreds of models.
    """
    num_models = len(wins)
    matches = wins + wins.T

    def loss(strengths: np.ndarray) -> float:
        return float(
            -(wins * special.log_expit(strengths[:, None] - strengths)).sum()
            + ridge * (strengths**2).sum()
        )

    def expected(strengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Chance of each win [M, M], and the information in all matches."""
        probability = special.expit(strengths[:, None] - strengths)
        information = -matches * probability * (1 - probability)
        np.fill_diagonal(information, 0)
        np.fill_diagonal(information, 2 * ridge - information.sum(axis=1))
        return probability, information

    strengths = np.zeros(num_models)
    probability, information = expected(strengths)
    for _ in range(MOST_STEPS):
        gradient = (matches * probability - wins).sum(axis=1) + 2 * ridge * strengths
        if np.abs(gradient).max() < 1e-9 * max(1.0, matches.sum()):
            break
        step = np.linalg.solve(information, gradient)
        now = loss(strengths)
        while loss(strengths - step) > now and np.abs(step).max() > 1e-12:
            step /= 2
        strengths = strengths - step
        probability, information = expected(strengths)
    centre = (
        np.eye(num_models) - 1 / num_models
    )  # strengths have sum 0: their common level has no error
    return Strengths(
        strengths - strengths.mean(),
        centre @ np.linalg.inv(information) @ centre,
        _deviance(wins, matches, probability, num_models),
        round(float(matches.sum()) / 2),
    )


def _deviance(
    wins: np.ndarray, matches: np.ndarray, probability: np.ndarray, num_models: int
) -> float:
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
