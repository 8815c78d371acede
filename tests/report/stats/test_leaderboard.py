"""Elo strengths against choix and a closed form; p-values of the ranking against scipy."""

import math

import choix
import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.report.data.records import ModelId
from harness.report.stats import elo, summaries
from harness.report.stats.leaderboard import RankedModel, ScoreMatrix, ranking


def test_elo_of_two_models_equals_the_closed_form():
    wins = np.array([[0, 30], [10, 0.0]])
    found = elo.fit(wins, ridge=1e-9)
    # The ridge of 1e-9 moves the optimum by 1e-10.
    assert found.strengths[0] - found.strengths[1] == pytest.approx(math.log(3), abs=1e-6)
    assert found.probability(0, 1) == pytest.approx(0.75, abs=1e-6) and found.num_matches == 40
    # The variance of the log odds is 1 / 30 + 1 / 10.
    contrast = np.array([1, -1])
    assert contrast @ found.covariance @ contrast == pytest.approx(1 / 30 + 1 / 10, rel=1e-6)


def test_strengths_agree_with_choix():
    random = np.random.default_rng(0)
    true = np.array([1.0, 0.3, 0.0, -0.4, -0.9])
    rounds = [true + random.gumbel(size=5) for _ in range(200)]
    wins = elo.count_wins(rounds)
    data = [(i, j) for i in range(5) for j in range(5) for _ in range(int(wins[i, j]))]
    theirs = choix.opt_pairwise(5, data, alpha=elo.RIDGE)
    found = elo.fit(wins)
    assert found.strengths == pytest.approx(theirs - theirs.mean(), abs=1e-6)  # choix stops at 1e-8
    assert (np.argsort(-found.strengths) == np.arange(5)).all()
    assert 0 <= found.deviance < 3


def test_ties_count_half_and_absent_models_have_no_match():
    rounds = [np.array([1.0, 1.0, 0.0]), np.array([2.0, 1.0, np.nan])]
    assert elo.count_wins(rounds).tolist() == [[0, 1.5, 1], [0.5, 0, 1], [0, 0, 0]]


def test_a_model_that_wins_everywhere_has_a_finite_strength():
    found = elo.fit(np.array([[0, 20, 20], [0, 0, 10], [0, 10, 0.0]]))
    assert np.isfinite(found.strengths).all() and found.strengths[0] > 3 > abs(found.strengths[1])
    # Newton steps end once they are small, not zero.
    assert found.strengths[1] == pytest.approx(found.strengths[2], abs=1e-6)
    assert np.isfinite(found.covariance).all()


def ranking_of(second: np.ndarray) -> list[RankedModel]:
    """Rank five models on 19 targets.

    `a` has a score of 0.9 everywhere, `b` has the scores `second`, [19], and three others have
    scores between 0.1 and 0.7.
    """
    scores = np.vstack(
        [np.full(19, 0.9), second, np.random.default_rng(0).uniform(0.1, 0.7, (3, 19))]
    )
    models = tuple(ModelId(name, "", "", "", 0.0) for name in "abcde")
    return ranking(
        ScoreMatrix(
            "full",
            False,
            models,
            tuple("abcde"),
            tuple(map(str, range(19))),
            scores,
            summaries.logit(scores, 1000),
            np.full(5, np.nan),
            tuple(scores.T),
            tuple("abcde"),
            np.full(5, np.nan),
        )
    )


@pytest.mark.parametrize("won", [19, 15, 12])
def test_p_next_is_the_sign_test_of_direct_matches(won: int) -> None:
    """A model that wins all 19 is clearly ahead, but Wald's test of the strengths has p = 0.27."""
    first, second, *_ = ranking_of(np.where(np.arange(19) < won, 0.8, 0.95))
    assert (first.model, second.model) == ("a", "b")
    assert first.p_next == pytest.approx(scipy_stats.binomtest(won, 19).pvalue)
    assert (first.elo_standard_error is None) == (won == 19)
    assert second.elo_standard_error is not None


def test_a_higher_strength_without_direct_wins_is_not_ahead() -> None:
    """Model `a` has 4 wins against `b` and 57 others; `b` has 15 wins against `a` and 45 others."""
    first, second, *_ = ranking_of(np.where(np.arange(19) < 15, 0.95, 0.05))
    assert (first.model, second.model, first.p_next) == ("a", "b", 1.0)
