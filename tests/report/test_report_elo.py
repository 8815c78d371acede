"""Elo strengths against choix, which fits the same model, and where they have a closed form."""

import math

import choix
import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.report import elo


def test_two_models_in_closed_form():
    wins = np.array([[0, 30], [10, 0.0]])
    found = elo.fit(wins, ridge=1e-9)
    assert found.strengths[0] - found.strengths[1] == pytest.approx(math.log(3), abs=1e-6)
    assert found.probability(0, 1) == pytest.approx(0.75, abs=1e-6) and found.num_matches == 40
    # Wald on the log odds, whose variance is 1 / 30 + 1 / 10; one degree of freedom.
    z = math.log(3) / math.sqrt(1 / 30 + 1 / 10)
    assert found.p_value(0, 1) == pytest.approx(2 * scipy_stats.norm.sf(z), rel=1e-4)


def test_strengths_agree_with_choix():
    random = np.random.default_rng(0)
    true = np.array([1.0, 0.3, 0.0, -0.4, -0.9])
    rounds = [true + random.gumbel(size=5) for _ in range(200)]
    wins = elo.wins_of(rounds)
    data = [(i, j) for i in range(5) for j in range(5) for _ in range(int(wins[i, j]))]
    theirs = choix.opt_pairwise(5, data, alpha=elo.RIDGE)
    found = elo.fit(wins)
    assert found.strengths == pytest.approx(theirs - theirs.mean(), abs=1e-5)
    assert (np.argsort(-found.strengths) == np.arange(5)).all()
    assert found.p_value(0, 4) < 1e-6 and 0 <= found.deviance < 3


def test_ties_count_half_and_absent_models_do_not_play():
    rounds = [np.array([1.0, 1.0, 0.0]), np.array([2.0, 1.0, np.nan])]
    assert elo.wins_of(rounds).tolist() == [[0, 1.5, 1], [0.5, 0, 1], [0, 0, 0]]


def test_a_model_that_wins_everywhere_has_a_finite_strength():
    found = elo.fit(np.array([[0, 20, 20], [0, 0, 10], [0, 10, 0.0]]))
    assert np.isfinite(found.strengths).all() and found.strengths[0] > 3 > abs(found.strengths[1])
    assert found.strengths[1] == pytest.approx(found.strengths[2], abs=1e-6) and found.p_value(1, 2) == pytest.approx(1)
    assert np.isfinite(found.covariance).all()
