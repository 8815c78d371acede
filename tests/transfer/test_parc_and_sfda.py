"""PARC and SFDA, compared with loops over their formulas, with libraries and with known values."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from harness.transfer.score import compute
from harness.transfer.scores import parc, sfda
from writers.errors import UserError


def clusters(num_images: int, num_features: int, num_classes: int, scale: float = 1.0):
    random = np.random.default_rng(num_images)
    labels = np.arange(num_images) % num_classes
    centers = random.normal(0, 1, (num_classes, num_features))
    return scale * (random.normal(0, 1, (num_images, num_features)) + centers[labels]), labels


def parc_by_pairs(features, labels):
    """Compute PARC by a loop over pairs of images.

    Distances are rounded, so that equal distances of labels stay ties.
    """
    columns = (features - features.mean(axis=0)) / np.where(
        features.std(axis=0) > 0, features.std(axis=0), 1
    )
    one_hot = np.eye(labels.max() + 1)[labels]
    distances = [
        [
            round(1 - np.corrcoef(values[i], values[j])[0, 1], 12)
            for i in range(len(labels))
            for j in range(i)
        ]
        for values in (columns, one_hot)
    ]
    return spearmanr(*distances).statistic


@pytest.mark.parametrize("shape", [(40, 6, 4), (15, 50, 3), (12, 5, 2)])
def test_parc_equals_its_formula(shape):
    features, labels = clusters(*shape)
    assert parc.score(features=features, labels=labels) == pytest.approx(
        parc_by_pairs(features, labels), rel=1e-9
    )


def test_parc_ignores_constant_columns_and_the_scale_of_each_column():
    features, labels = clusters(40, 6, 4)
    given = parc.score(features=features, labels=labels)
    scales = np.array([1e-30, 1e38, 1, 7, 1e5, 1e-3])
    assert parc.score(features=features * scales, labels=labels) == pytest.approx(given, rel=1e-9)
    # 2.1 has no exact binary form, so the mean of 40 such values has a rounding error.
    constant = np.column_stack([features, np.full(40, 2.1), np.zeros(40)])
    padded = np.column_stack([features, np.zeros((40, 2))])
    assert parc.score(features=constant, labels=labels) == parc.score(
        features=padded, labels=labels
    )


def test_parc_of_features_that_are_the_labels_is_1_and_equal_images_are_ties():
    labels = np.arange(30) % 3
    one_hot = np.eye(3)[labels]
    assert parc.score(features=one_hot, labels=labels) == pytest.approx(1)
    assert parc.score(features=one_hot, labels=np.arange(30) // 10) < 0.1


@pytest.mark.parametrize(
    ("features", "labels", "reason"),
    [
        (np.eye(4), [5, 5, 5, 5], "of one class"),
        (np.eye(4), [0, 1, 2, 3], "of two classes"),
        (np.eye(4)[:1], [0], "of one class"),
        (np.full((4, 3), 2.1), [0, 0, 1, 1], "equal distances"),
    ],
)
def test_parc_is_refused_if_it_is_undefined(features, labels, reason):
    with pytest.raises(UserError, match=reason):
        parc.score(features=features, labels=np.array(labels))
    failed = compute(["parc"], features=features, probs=None, labels=np.array(labels)).failed
    assert reason in failed["parc"]


def test_parc_of_many_images_uses_a_random_sample(monkeypatch):
    features, labels = clusters(300, 6, 4)
    everything = parc.score(features=features, labels=labels)
    monkeypatch.setattr(parc, "MAX_IMAGES", 150)
    some = parc.score(features=features, labels=labels)
    assert some == parc.score(features=features, labels=labels)
    assert some != everything and some == pytest.approx(everything, abs=0.1)
    assert some != parc.score(features=features, labels=labels, seed=1)


def sfda_by_library(features, labels):
    """Compute SFDA by scikit-learn's discriminant of the same shrinkage and a loop over images."""
    num_images, num_classes = len(labels), labels.max() + 1
    covariance = sum(
        np.atleast_2d(np.cov(features[labels == c].T, bias=True)) * (labels == c).mean()
        for c in range(num_classes)
    )
    shrinkage = max(math.exp(-5 * np.linalg.eigvalsh(covariance)[-1]), 1e-10)

    def fitted(values):
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        return model.fit(values, labels).predict_proba(values)

    means = [features[labels == c].mean(axis=0) for c in range(num_classes)]
    probabilities, moved = fitted(features), []
    for i in range(num_images):
        confidence = math.exp(probabilities[i, labels[i]]) / sum(
            math.exp(p) for p in probabilities[i]
        )
        others = np.mean([means[c] for c in range(num_classes) if c != labels[i]], axis=0)
        moved.append(confidence * features[i] + (1 - confidence) * others)
    return np.mean([row[label] for row, label in zip(fitted(np.stack(moved)), labels, strict=True)])


# A small scale gives much shrinkage, a large one almost none. With D > N, the score computes in
# the coordinates of an SVD.
@pytest.mark.parametrize(
    ("shape", "scale"),
    [((60, 5, 4), 0.1), ((60, 5, 4), 1.0), ((60, 5, 2), 30.0), ((30, 45, 3), 0.1), ((20, 1, 2), 1)],
)
def test_sfda_equals_scikit_learns_discriminant(shape, scale):
    features, labels = clusters(*shape, scale=scale)
    assert sfda.score(features=features, labels=labels) == pytest.approx(
        sfda_by_library(features, labels), rel=1e-6
    )


def test_sfda_does_not_depend_on_the_origin_or_a_rotation():
    features, labels = clusters(60, 5, 4, scale=0.3)
    given = sfda.score(features=features, labels=labels)
    turned = features @ np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    assert sfda.score(features=turned + 1000, labels=labels) == pytest.approx(given, rel=1e-9)


def test_sfda_has_its_limit_for_one_class_and_for_constant_features():
    features, labels = clusters(60, 5, 4)
    assert sfda.score(features=features, labels=np.zeros(60, int)) == 1
    for value in (0.0, 2.1, 3e38):  # probabilities are the classes' fractions, 0.75 and 0.25
        counts = np.repeat([0, 1], [45, 15])
        assert sfda.score(features=np.full((60, 5), value), labels=counts) == pytest.approx(
            0.75 * 0.75 + 0.25 * 0.25, rel=1e-3
        )
    for scale in (1e-20, 1.0, 1e30):
        assert sfda.score(features=scale * np.eye(4)[labels], labels=labels) == pytest.approx(1)
    assert sfda.score(features=np.eye(4), labels=np.arange(4)) == pytest.approx(1)


def test_sfda_of_the_largest_float32_features_is_finite():
    features, labels = clusters(60, 5, 4)
    large = (features / np.abs(features).max() * np.finfo(np.float32).max).astype(np.float32)
    assert 0.25 < sfda.score(features=large, labels=labels) <= 1
    assert -1 <= parc.score(features=large, labels=labels) <= 1


def test_sfda_saturates_with_more_large_features_than_images():
    """Even random labels give 1, as the docstring of the score warns."""
    features = np.random.default_rng(0).normal(0, 3, (40, 80))
    labels = np.random.default_rng(1).integers(0, 4, 40)
    assert sfda.score(features=features, labels=labels) == pytest.approx(1, abs=1e-6)
