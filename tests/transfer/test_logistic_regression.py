"""Logistic regression: scikit-learn's optimum for each penalty, and the choice of the penalty."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from harness.transfer import logistic_regression


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 300)
    features = random.normal(0, 1, (300, 16)) + random.normal(0, 0.8, (5, 16))[labels]
    return torch.tensor(features), torch.tensor(labels)


@pytest.mark.parametrize("penalty", [1e-3, 1e-1, 1.0, 100.0, 1e5])
def test_the_optimum_equals_scikit_learns(data, penalty):
    features, labels = data
    ours = next(
        fit
        for fit in logistic_regression.fit_path(features, labels, 5, {1e5, 10.0, penalty})
        if fit.penalty == penalty
    )
    theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=20_000).fit(
        features.numpy(), labels.numpy()
    )
    logits = torch.tensor(features.numpy() @ theirs.coef_.T + theirs.intercept_)
    loss = (
        float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        + penalty / 2 * (theirs.coef_**2).sum()
    )
    # The solvers stop at slightly different points.
    assert ours.loss / 300 == pytest.approx(loss / 300, abs=1e-8)
    assert ours.converged and ours.largest_gradient <= 1e-6
    # One image of 300 may be on a decision boundary.
    assert (ours.logits(features).argmax(1) == logits.argmax(1)).double().mean() > 0.995


def test_the_path_is_that_of_the_paper_and_convergence_is_reported(data):
    assert len(logistic_regression.LAMBDAS) == 45
    assert logistic_regression.LAMBDAS[0] == pytest.approx(1e-6)
    assert logistic_regression.LAMBDAS[-1] == pytest.approx(1e5)
    path = logistic_regression.fit_path(*data, 5)
    assert [fit.penalty for fit in path] == sorted(logistic_regression.LAMBDAS, reverse=True)
    assert all(fit.converged for fit in path)
    losses = [fit.loss for fit in path]
    assert losses == sorted(losses, reverse=True), "the loss must fall as the penalty gets weaker"


def test_a_fit_that_does_not_converge_is_reported(data, monkeypatch):
    monkeypatch.setattr(logistic_regression, "MAX_STEPS", 1)
    assert not logistic_regression.fit_path(*data, 5, [1e-6])[0].converged


def test_validation_selects_the_penalty_and_both_sets_are_fitted(data):
    features, labels = data
    train, val = (features[:200], labels[:200]), (features[200:], labels[200:])

    def accuracy(logits: torch.Tensor, truth: torch.Tensor) -> float:
        return float((logits.argmax(1) == truth).double().mean())

    chosen = logistic_regression.select_penalty(
        train, val, 5, accuracy, [1e-4, 1e-2, 1.0, 10.0, 1e4]
    )
    assert chosen.scores[chosen.fit.penalty] == max(chosen.scores.values())
    assert len(chosen.scores) == 5
    whole = logistic_regression.fit_path(features, labels, 5, [chosen.fit.penalty])[0]
    assert chosen.fit.loss == pytest.approx(whole.loss, rel=1e-8)  # this fit starts elsewhere
    assert logistic_regression.select_penalty(
        train, val, 5, lambda logits, truth: 0.5, [1.0, 10.0]
    ).at_the_edge


def test_standardized_features_have_mean_0_and_deviation_1(data):
    features = data[0].clone()
    features[:, 3] = 7.0  # constant, as for a dead unit
    standardized = logistic_regression.standardization(features)(features)
    assert torch.allclose(standardized.mean(0), torch.zeros(16, dtype=torch.float64), atol=1e-12)
    assert standardized[:, 3].abs().max() == 0
    assert standardized[:, 0].std(correction=0) == pytest.approx(1)


@pytest.mark.parametrize("many_labels", [False, True])
def test_conjugate_gradients_and_a_solve_with_the_hessian_agree(data, monkeypatch, many_labels):
    features, labels = data
    if many_labels:
        random = np.random.default_rng(3)
        labels = torch.tensor(
            random.choice([1, 0, -1], (300, 5), p=[0.3, 0.1, 0.6]).astype(np.int8)
        )
    solved = logistic_regression.fit_path(features, labels, 5, [100.0, 1.0, 1e-2])
    monkeypatch.setattr(logistic_regression, "MAX_SOLVED_SIZE", 0)
    for one, other in zip(
        solved, logistic_regression.fit_path(features, labels, 5, [100.0, 1.0, 1e-2]), strict=True
    ):
        assert one.converged and other.converged
        assert one.loss / 300 == pytest.approx(other.loss / 300, abs=1e-7)
        # Under a weak penalty the loss is flat near its minimum, so weights differ more, by 3e-4.
        assert torch.allclose(one.weights, other.weights, atol=2e-3)
