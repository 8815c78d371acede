"""Scores equal their formulas for random shapes, ties, constant columns and absent classes."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.transfer.scores import hscore, knn, leep, logme, nce, transrate

SHAPES = given(
    num_images=st.integers(6, 60),
    num_features=st.integers(1, 12),
    num_classes=st.integers(1, 5),
    num_sources=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)


FEW = settings(max_examples=25, deadline=None, derandomize=True)


def drawn(num_images: int, num_features: int, num_classes: int, num_sources: int, seed: int):
    """Draw features [N, D] with ties and constant columns, probabilities [N, C], and labels [N].

    Some probabilities are zero, and some classes may have no image.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, num_images)
    features = np.round(
        random.normal(0, 1, (num_images, num_features)) + labels[:, None], random.integers(0, 4)
    )
    if num_features > 1 and random.integers(2):
        features[:, 0] = 2  # constant
    probs = random.dirichlet(np.full(num_sources, 0.3), num_images)
    probs[probs < 0.05] = 0
    return features, probs / probs.sum(axis=1, keepdims=True), labels


@FEW
@SHAPES
def test_leep_of_random_shapes_equals_loops(**shape):
    _, probs, labels = drawn(**shape)
    num_images, num_sources = probs.shape
    total = 0.0
    for i in range(num_images):
        likelihood = 0.0
        for z in range(num_sources):
            mass = sum(probs[j, z] for j in range(num_images))
            if mass > 0:  # a source class with probability 0 has no effect
                likelihood += (
                    sum(probs[j, z] for j in range(num_images) if labels[j] == labels[i])
                    / mass
                    * probs[i, z]
                )
        total += math.log(likelihood)
    assert leep.score(probs=probs, labels=labels) == pytest.approx(
        total / num_images, rel=1e-9, abs=1e-12
    )
    assert leep.score(probs=probs, labels=labels) <= 1e-12


@FEW
@SHAPES
def test_knn_of_random_shapes_with_ties_equals_loops(**shape):
    """Small integers as features make many distances exactly equal."""
    features, _, labels = drawn(**shape)
    features = np.round(features)
    num_images = len(labels)
    for k in {1, 3, num_images - 1}:
        right = 0
        for i in range(num_images):
            nearest = sorted(
                (float(((features[i] - features[j]) ** 2).sum()), j)
                for j in range(num_images)
                if j != i
            )[:k]
            votes = [0] * (labels.max() + 1)
            for _, j in nearest:
                votes[labels[j]] += 1
            right += votes.index(max(votes)) == labels[i]
        assert knn.score(features=features, labels=labels, k=k) == right / num_images


@FEW
@SHAPES
def test_logme_of_random_shapes_equals_the_published_iteration(**shape):
    """The reference follows the JMLR paper: it inverts matrices of the features, for D <= N."""
    features, _, labels = drawn(**shape)
    (num_images, num_features), evidences = features.shape, []
    assume(num_features <= num_images)
    for label in np.unique(labels):
        y, alpha, beta = (labels == label).astype(float), 1.0, 1.0
        for _ in range(11):
            t = alpha / beta
            inverse = np.linalg.inv(features.T @ features + t * np.eye(num_features))
            m = inverse @ features.T @ y
            gamma = num_features - t * np.trace(inverse)
            m2, res2 = m @ m, ((features @ m - y) ** 2).sum()
            alpha, beta = gamma / (m2 + 1e-5), (num_images - gamma) / (res2 + 1e-5)
            determinant = np.linalg.slogdet(
                alpha * np.eye(num_features) + beta * features.T @ features
            )[1]
            evidence = (
                (
                    num_features * math.log(alpha)
                    + num_images * math.log(beta)
                    - determinant
                    - beta * res2
                    - alpha * m2
                    - num_images * math.log(2 * math.pi)
                )
                / 2
                / num_images
            )
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        evidences.append(evidence)
    # The inverted matrices lose digits that the score's singular values keep.
    assert logme.score(features=features, labels=labels) == pytest.approx(
        np.mean(evidences), rel=1e-5, abs=1e-5
    )


@FEW
@SHAPES
def test_other_scores_of_random_shapes_equal_their_formulas(**shape):
    features, probs, labels = drawn(**shape)
    present = np.unique(labels)
    hard = probs.argmax(axis=1)
    entropy = sum(
        math.log(np.mean(labels[hard == z] == y)) for y, z in zip(labels, hard, strict=True)
    ) / len(labels)
    assert nce.score(probs=probs, labels=labels) == pytest.approx(entropy, rel=1e-9, abs=1e-12)
    centred = features - features.mean(axis=0)

    def rate(part):
        return (
            0.5
            * np.log1p(np.maximum(np.linalg.eigvalsh(part.T @ part / (len(part) * 1e-4)), 0)).sum()
        )

    by_hand = rate(centred) - np.mean([rate(centred[labels == label]) for label in present])
    assert transrate.score(features=features, labels=labels) == pytest.approx(
        by_hand,
        rel=1e-6,
        abs=1e-6,  # eigenvalues divided by 1e-4 magnify rounding
    )
    between = np.cov(
        np.stack([features[labels == label].mean(axis=0) for label in labels]).T, bias=True
    )
    h = np.trace(
        np.linalg.pinv(np.atleast_2d(np.cov(features.T, bias=True)), rcond=1e-10)
        @ np.atleast_2d(between)
    )
    assert hscore.score(features=features, labels=labels) == pytest.approx(
        h,
        rel=1e-6,
        abs=1e-6,  # almost singular covariances lose digits
    )
