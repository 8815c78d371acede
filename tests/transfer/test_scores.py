"""Transferability scores, compared with loops over their formulas, libraries or known values."""

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.linear_model import BayesianRidge
from sklearn.neighbors import NearestNeighbors

from harness.transfer.score import compute, find
from harness.transfer.scores import gbc, hscore, knn, leep, logme, nce, nleep, transrate
from writers.errors import UserError
from writers.names import names

N, D, C, K = 240, 12, 7, 4


@pytest.fixture
def data():
    """Features [N, D] in K clusters, probabilities [N, C] of source classes, and labels [N].

    The probabilities correlate with the labels.
    """
    random = np.random.default_rng(0)
    labels = random.integers(0, K, N)
    features = random.normal(0, 1, (N, D)) + 1.5 * random.normal(0, 1, (K, D))[labels]
    logits = random.normal(0, 1, (N, C)) + 2 * np.eye(K, C)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return features, probs, labels


@pytest.mark.parametrize("name", names("harness.transfer.scores"))
def test_better_features_score_higher_for_any_label_values(name, data):
    features, probs, labels = data
    module = find(name)
    shuffled = np.random.default_rng(1).permutation(labels)
    given = module.score(features=features, probs=probs, labels=labels)
    assert isinstance(given, float) and math.isfinite(given)
    assert given > module.score(features=features, probs=probs, labels=shuffled)
    renamed = np.array([40, 3, 17, 9])[labels]
    # float32 features changed no score by more than 5e-6.
    assert module.score(
        features=features.astype(np.float32), probs=probs, labels=renamed
    ) == pytest.approx(given, rel=1e-4)
    unused = {"features", "probs"} - set(module.NEEDS)
    assert (
        module.score(
            **{"features": features, "probs": probs} | dict.fromkeys(unused), labels=labels
        )
        == given
    )


@pytest.mark.parametrize("name", names("harness.transfer.scores"))
def test_unsuitable_inputs_are_refused(name, data):
    features, probs, labels = data
    module = find(name)
    needed = module.NEEDS[0]
    broken = {"features": features.copy(), "probs": probs.copy()}
    broken[needed][3, 0] = np.nan
    for wrong in (
        {needed: None},
        {needed: broken[needed]},
        {needed: {"features": features, "probs": probs}[needed][:-1]},
        {"labels": labels.astype(float)},
        {"labels": labels[:, None]},
    ):
        with pytest.raises(UserError):
            module.score(**({"features": features, "probs": probs, "labels": labels} | wrong))
    if needed == "probs":
        with pytest.raises(UserError, match="not probabilities"):
            module.score(features=None, probs=probs * 2, labels=labels)


def test_leep_equals_loops(data):
    _, probs, labels = data
    joint = [
        [sum(probs[i, z] for i in range(N) if labels[i] == y) / N for z in range(C)]
        for y in range(K)
    ]
    total = 0.0
    for i in range(N):
        total += math.log(
            sum(
                joint[labels[i]][z] / sum(joint[y][z] for y in range(K)) * probs[i, z]
                for z in range(C)
            )
        )
    assert leep.score(probs=probs, labels=labels) == pytest.approx(total / N, rel=1e-12)


def test_leep_of_a_perfect_and_of_an_uninformative_source():
    labels = np.arange(1000) % 10
    one_hot = np.eye(20)[labels]  # ten source classes have probability 0 for all images
    assert leep.score(probs=one_hot, labels=labels) == 0.0
    blind = np.random.default_rng(0).dirichlet(np.ones(5) * 50, 20_000)
    # 20,000 random predictions are slightly informative.
    assert leep.score(probs=blind, labels=np.arange(20_000) % 10) == pytest.approx(
        math.log(1 / 10), abs=1e-4
    )


def test_nce_equals_counting(data):
    _, probs, labels = data
    pairs = [(int(y), int(row.argmax())) for y, row in zip(labels, probs, strict=True)]
    entropy = 0.0
    for pair in set(pairs):
        joint, source = pairs.count(pair) / N, sum(z == pair[1] for _, z in pairs) / N
        entropy += joint * math.log(joint / source)
    assert nce.score(probs=probs, labels=labels) == pytest.approx(entropy, rel=1e-12)
    assert nce.score(probs=np.eye(K)[labels], labels=labels) == 0.0


def test_nce_is_leep_of_hard_predictions(data):
    _, probs, labels = data
    hard = np.eye(C)[probs.argmax(axis=1)]
    assert nce.score(probs=probs, labels=labels) == pytest.approx(
        leep.score(probs=hard, labels=labels), rel=1e-12
    )


def test_nleep_is_zero_for_separate_clusters_and_reports_details(data):
    random = np.random.default_rng(0)
    labels = np.arange(600) % 3
    apart = random.normal(0, 0.1, (600, 4)) + 50 * np.eye(3, 4)[labels]
    assert nleep.score(features=apart, labels=labels) == pytest.approx(0, abs=1e-12)
    features, _, labels = data
    details = nleep.details(features=features, labels=labels)
    assert (details["num_components"], details["wanted_components"], details["covariances"]) == (
        20,
        20,
        "full",
    )
    kept = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    assert (
        (np.cumsum(kept) / kept.sum())[details["num_dimensions"] - 1]
        >= 0.8
        > (np.cumsum(kept) / kept.sum())[details["num_dimensions"] - 2]
    )


def test_nleep_equals_leep_of_the_mixtures_posteriors(data):
    """The reference computes posteriors from the mixture's parameters and scipy's densities."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    features, _, labels = data
    reduced = PCA(0.8, svd_solver="full").fit_transform(features)
    mixture = GaussianMixture(5 * K, random_state=123).fit(reduced)
    densities = np.stack(
        [
            weight * multivariate_normal(mean, covariance).pdf(reduced)
            for weight, mean, covariance in zip(
                mixture.weights_, mixture.means_, mixture.covariances_, strict=True
            )
        ],
        axis=1,
    )
    posteriors = densities / densities.sum(axis=1, keepdims=True)
    assert nleep.score(features=features, labels=labels) == pytest.approx(
        leep.score(probs=posteriors, labels=labels), rel=1e-6
    )


@pytest.mark.parametrize("shape", [(N, D), (30, 60)])
def test_logme_equals_the_log_density_of_the_labels(data, shape, monkeypatch):
    """The evidence is the density of y ~ N(0, I / beta + f f^T / alpha), maximized over both."""
    from scipy.optimize import minimize

    random = np.random.default_rng(3)
    labels = random.integers(0, 2, shape[0])
    features = random.normal(0, 1, shape) + 0.5 * labels[:, None]

    eigenvalues, vectors = np.linalg.eigh(features @ features.T)

    def evidence(log_precisions, target):
        """Compute the log-density per image in the eigenbasis of the covariance."""
        variances = np.exp(-log_precisions[1]) + np.maximum(eigenvalues, 0) * np.exp(
            -log_precisions[0]
        )
        return -0.5 * (np.log(2 * np.pi * variances) + (vectors.T @ target) ** 2 / variances).mean()

    targets = [(labels == label).astype(float) for label in (0, 1)]
    best = [
        max(
            -minimize(lambda p, y: -evidence(p, y), start, args=target, method="Nelder-Mead").fun
            for start in ([0.0, 0.0], [3.0, 3.0])
        )
        for target in targets
    ]
    monkeypatch.setattr(logme, "MAX_ITERATIONS", 1000)
    monkeypatch.setattr(logme, "TOLERANCE", 1e-12)
    monkeypatch.setattr(logme, "FLOOR", 1e-12)  # the published floor shifts the optimum by 9e-4
    # The remaining floor shifts it by 3e-7; Nelder-Mead stops within 1e-8 of a maximum.
    assert logme.score(features=features, labels=labels) == pytest.approx(np.mean(best), abs=1e-5)


def test_logme_agrees_with_scikit_learns_bayesian_ridge(data):
    """BayesianRidge with flat priors maximizes the same evidence."""
    features, _, labels = data
    evidences = []
    for label in range(K):
        target = (labels == label).astype(float)
        ridge = BayesianRidge(
            fit_intercept=False,
            compute_score=True,
            alpha_1=1e-12,
            alpha_2=1e-12,
            lambda_1=1e-12,
            lambda_2=1e-12,
            max_iter=2000,
            tol=1e-10,
        ).fit(features, target)
        evidences.append(ridge.scores_[-1] / N)
    # The score stops at a relative change of 1e-3 in alpha / beta, as published.
    assert logme.score(features=features, labels=labels) == pytest.approx(
        np.mean(evidences), abs=1e-6
    )


def test_hscore_equals_its_formula(data):
    features, _, labels = data
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    covariance, between = np.cov(features.T, bias=True), np.cov(means.T, bias=True)
    by_hand = np.trace(np.linalg.inv(covariance) @ between)
    assert hscore.score(features=features, labels=labels) == pytest.approx(by_hand, rel=1e-9)
    assert hscore.score(features=np.eye(K)[labels], labels=labels) == pytest.approx(K - 1)


def test_shrunk_hscore_equals_its_formula_with_ledoit_wolf(data):
    from sklearn.covariance import LedoitWolf

    features, _, labels = data
    fitted = LedoitWolf().fit(features)
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    by_hand = (1 - fitted.shrinkage_) * np.trace(
        np.linalg.inv(fitted.covariance_) @ np.cov(means.T, bias=True)
    )
    assert hscore.score(features=features, labels=labels, shrunk=True) == pytest.approx(
        by_hand, rel=1e-9
    )


@pytest.mark.parametrize("spherical", [False, True])
def test_gbc_equals_loops(data, spherical):
    features, _, labels = data
    total = 0.0
    for a in range(K):
        for b in range(K):
            if a == b:
                continue
            distance = 0.0
            for d in range(D):
                mean_a, mean_b = (features[labels == c, d].mean() for c in (a, b))
                var_a, var_b = (
                    (
                        features[labels == c].var(axis=0).mean()
                        if spherical
                        else features[labels == c, d].var()
                    )
                    for c in (a, b)
                )
                var = (var_a + var_b) / 2
                distance += (mean_a - mean_b) ** 2 / var / 8 + math.log(
                    var / math.sqrt(var_a * var_b)
                ) / 2
            total += math.exp(-distance)
    assert gbc.score(features=features, labels=labels, spherical=spherical) == pytest.approx(
        -total, rel=1e-9
    )


def test_gbc_of_equal_and_of_distant_classes():
    labels = np.arange(100) % 2
    same = np.repeat(np.random.default_rng(0).normal(size=(50, 3)), 2, axis=0)
    # Both ordered pairs of classes overlap completely.
    assert gbc.score(features=same, labels=labels) == pytest.approx(-2)
    assert gbc.score(features=same + 1000 * labels[:, None], labels=labels) == pytest.approx(0)


@pytest.mark.parametrize("num_images", [N, 20])
def test_transrate_equals_its_formula(data, num_images):
    features, _, labels = (part[:num_images] for part in data)
    centered = features - features.mean(axis=0)

    def rate(part):
        eigenvalues = np.linalg.eigvalsh(part.T @ part / (len(part) * 1e-4))
        return 0.5 * np.log1p(np.maximum(eigenvalues, 0)).sum()

    by_hand = rate(centered) - np.mean(
        [rate(centered[labels == label]) for label in np.unique(labels)]
    )
    # Eigenvalues divided by 1e-4 magnify rounding.
    assert transrate.score(features=features, labels=labels) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_agrees_with_scikit_learn(data, k, metric, monkeypatch):
    features, _, labels = data
    monkeypatch.setattr(knn, "CHUNK", 100)
    neighbors = (
        NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute")
        .fit(features)
        .kneighbors()[1]
    )
    assert (knn.nearest_neighbors(features, k, metric=metric) == neighbors).all()
    votes = [np.bincount(labels[row], minlength=K).argmax() for row in neighbors]
    assert (
        knn.score(features=features, labels=labels, k=k, metric=metric)
        == (np.array(votes) == labels).mean()
    )


def test_knn_is_exact_far_from_the_origin_and_with_ties():
    """Far from the origin, |a|^2 - 2 a b + |b|^2 loses all digits in float32.

    If distances are equal, the lower index is the nearer neighbor.
    """
    random = np.random.default_rng(0)
    features = 1e5 + random.normal(0, 1e-2, (60, 3))
    expected = [
        min((float(((a - b) ** 2).sum()), j) for j, b in enumerate(features) if j != i)[1]
        for i, a in enumerate(features)
    ]
    assert knn.nearest_neighbors(features, 1)[:, 0].tolist() == expected
    line = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert knn.nearest_neighbors(line, 1)[:, 0].tolist() == [1, 0, 1, 2]


def test_more_ties_than_candidates_go_to_the_lowest_index():
    features = np.zeros((100, 2))
    features[50:] = 1
    assert knn.nearest_neighbors(features, 1)[:, 0].tolist() == [1, *[0] * 49, 51, *[50] * 49]
    assert (knn.nearest_neighbors(features, 3)[60] == [50, 51, 52]).all()


def test_knn_counts_duplicates_and_refuses_a_k_that_is_too_large(data):
    features, _, labels = data
    assert knn.duplicates(features) == 0
    assert knn.duplicates(np.concatenate([features, features[:7]])) == 7
    assert knn.duplicates(None) == 0
    for k in (0, N):
        with pytest.raises(UserError, match="k is"):
            knn.score(features=features, labels=labels, k=k)


def test_nleep_has_fewer_components_with_few_images():
    """There are 5 K components as published; fewer per class if N is small, and at most N - 1."""
    features = np.random.default_rng(0).normal(0, 1, (60, 3))
    for num_classes, components in ((5, 25), (11, 55), (12, 48), (25, 50), (40, 40), (60, 59)):
        details = nleep.details(features=features, labels=np.arange(60) % num_classes)
        assert (details["num_components"], details["wanted_components"]) == (
            components,
            5 * num_classes,
        )
        assert details["covariances"] == "full" and details["score"] <= 0


def test_only_logme_accepts_several_labels_per_image(data):
    features, probs, labels = data
    many = np.where(np.eye(K, dtype=np.int8)[labels] == 1, 1, -1).astype(np.int8)
    assert logme.score(features=features, labels=many) == logme.score(
        features=features, labels=labels
    )
    many[0] = 1
    assert logme.score(features=features, labels=many) != logme.score(
        features=features, labels=labels
    )
    computed = compute(
        names("harness.transfer.scores"), features=features, probs=probs, labels=many
    )
    assert computed.scores.keys() == {"logme"}
    assert computed.failed.keys() == set(names("harness.transfer.scores")) - {"logme"}
    assert all("several labels" in reason for reason in computed.failed.values())


def test_a_failing_score_is_reported_and_others_are_computed(data, monkeypatch):
    features, probs, labels = data
    monkeypatch.setattr(gbc, "score", lambda **_: float("nan"))
    monkeypatch.setattr(nce, "score", lambda **_: 1 / 0)
    computed = compute(["gbc", "nce", "leep"], features=features, probs=probs, labels=labels)
    assert computed.scores.keys() == {"leep"} and set(computed.seconds) == {"gbc", "nce", "leep"}
    assert computed.failed == {
        "gbc": "gives nan, which cannot be compared.",
        "nce": "ZeroDivisionError: division by zero",
    }
    without = compute(["leep", "hscore"], features=None, probs=probs, labels=labels)
    assert without.scores == computed.scores and without.num_duplicates == 0
    assert "needs features" in without.failed["hscore"]
    with pytest.raises(UserError, match="no score named 'lep'"):
        compute(["lep"], features=features, probs=probs, labels=labels)
