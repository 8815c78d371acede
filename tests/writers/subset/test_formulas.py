"""Formulas of selection equal plain loops that are written from the papers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from writers.subset.formulas import (
    clusters,
    el2n,
    feature_mapping,
    forgetting,
    influence,
    label_mapping,
    prototypes,
)


def probabilities(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    raw = generator.random(shape)
    return raw / raw.sum(axis=1, keepdims=True)


def test_el2n_is_the_mean_length_of_the_error_vector():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 40)
    models = [probabilities(generator, (40, 5)) for _ in range(3)]
    slow = []
    for image, label in enumerate(labels):
        lengths = [
            math.sqrt(sum((model[image][c] - (c == label)) ** 2 for c in range(5)))
            for model in models
        ]
        slow.append(sum(lengths) / 3)
    fast = el2n.el2n(np.stack([el2n.error_norms(model, labels) for model in models]))
    np.testing.assert_allclose(fast, slow, rtol=1e-12)
    sure = np.eye(3, dtype=np.float32)
    assert el2n.error_norms(sure, np.array([0, 1, 0])).tolist() == [0, 0, math.sqrt(2)]


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_forgetting_counts_changes_from_right_to_wrong(evaluations: list[list[bool]]):
    slow = []
    for image in range(4):
        history = [evaluation[image] for evaluation in evaluations]
        events = sum(before and not after for before, after in itertools.pairwise(history))
        slow.append(events if any(history) else len(evaluations))
    assert forgetting.num_forgotten(np.array(evaluations)).tolist() == slow


def test_an_image_that_is_never_right_is_forgotten_more_often_than_any_other():
    alternating = np.array([[True, False], [False, False]] * 5)
    counts = forgetting.num_forgotten(alternating)
    assert counts.tolist() == [5, 10]
    assert forgetting.forgetting(np.stack([counts, counts * 3])).tolist() == [10, 20]


def test_prototypes_are_cosine_distances_to_the_nearest_center():
    generator = np.random.default_rng(1)
    means = np.eye(6)[:3] * 5
    features = np.concatenate([mean + generator.normal(0, 0.3, (20, 6)) for mean in means])
    found = clusters.cluster(features.astype(np.float32), 3, seed=0)
    groups = found.labels.reshape(3, 20)
    assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == 3
    distances = prototypes.distances(features, found)
    for image, feature in enumerate(features):
        center = np.mean(
            [f / np.linalg.norm(f) for f in features[found.labels == found.labels[image]]], axis=0
        )
        cosine = feature @ center / np.linalg.norm(feature) / np.linalg.norm(center)
        assert distances[image] == pytest.approx(1 - cosine, abs=1e-6)


def test_the_nearest_center_is_that_of_scikit_learn():
    from sklearn.metrics import pairwise_distances_argmin

    generator = np.random.default_rng(2)
    unit, centers = clusters.unit_length(generator.normal(size=(300, 8))), generator.random((7, 8))
    assert (clusters.nearest(unit, centers) == pairwise_distances_argmin(unit, centers)).all()
    assert clusters.unit_length(np.zeros((1, 4))).tolist() == [[0, 0, 0, 0]]


def test_label_mapping_counts_the_most_probable_classes():
    probs = probabilities(np.random.default_rng(3), (50, 4))
    slow = [
        sum(int(max(range(4), key=lambda c: row[c]) == name) for row in probs) for name in range(4)
    ]
    assert label_mapping.num_mapped(probs).tolist() == slow
    shares = label_mapping.mean_shares([np.array([3, 1, 0]), np.array([0, 50, 50])])
    assert shares.tolist() == [0.375, 0.375, 0.25]


def test_feature_mapping_counts_the_target_images_of_each_cluster():
    generator = np.random.default_rng(4)
    found = clusters.cluster(generator.normal(size=(60, 5)), 6, seed=1)
    target = generator.normal(size=(30, 5))
    slow = [0] * 6
    for feature in target / np.linalg.norm(target, axis=1, keepdims=True):
        slow[min(range(6), key=lambda k: ((feature - found.centers[k]) ** 2).sum())] += 1
    assert feature_mapping.num_nearest(target, found).tolist() == slow


def test_influence_is_the_difference_of_two_means():
    generator = np.random.default_rng(5)
    had, accuracy = generator.random((30, 6)) < 0.5, generator.random(30)
    found = influence.influence(had, accuracy, seed=0)
    for c in range(6):
        with_c = [accuracy[m] for m in range(30) if had[m, c]]
        without = [accuracy[m] for m in range(30) if not had[m, c]]
        assert found.value[c] == pytest.approx(
            sum(with_c) / len(with_c) - sum(without) / len(without)
        )
    assert (found.low_95 <= found.high_95).all()
    again = influence.influence(had, accuracy, seed=0)
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


def test_the_bootstrap_repeats_models_as_often_as_they_are_drawn():
    generator = np.random.default_rng(6)
    had, accuracy = generator.random((12, 3)) < 0.5, generator.random(12)
    drawn = np.array([[3, 0, 1, 1, 2, 0, 0, 1, 1, 1, 1, 1]], float)
    repeated = np.repeat(np.arange(12), drawn[0].astype(int))
    one = np.ones((1, len(repeated)))
    np.testing.assert_allclose(
        influence.differences(had, accuracy, drawn),
        influence.differences(had[repeated], accuracy[repeated], one),
    )


def test_intervals_cover_a_planted_influence_and_a_class_without_one():
    """Class 0 adds 0.1, class 1 adds 0. 95 % intervals cover both in most of 40 repetitions."""
    covered = np.zeros(2)
    for repetition in range(40):
        generator = np.random.default_rng(repetition)
        had = generator.random((80, 2)) < 0.5
        accuracy = 0.5 + 0.1 * had[:, 0] + generator.normal(0, 0.05, 80)
        found = influence.influence(had, accuracy, seed=repetition, draws=300)
        truth = np.array([0.1, 0.0])
        covered += (found.low_95 <= truth) & (truth <= found.high_95)
        assert found.low_95[0] > 0.03
    assert (covered >= 33).all()


def test_a_class_that_all_models_had_has_no_influence():
    had = np.array([[True, True], [True, False], [True, True]])
    found = influence.influence(had, np.array([0.1, 0.2, 0.3]), seed=0)
    assert np.isnan(found.value[0]) and np.isnan(found.low_95[0]) and np.isnan(found.high_95[0])
    assert found.value[1] == pytest.approx(0.0)


def test_a_class_that_all_or_no_models_had_is_unknown_for_any_rounding():
    """Sums of the same accuracies in another order may differ in the last bits."""
    random = np.random.default_rng(0)
    for num_models in range(3, 40):
        had = random.random((num_models, 20)) < 0.5
        had[:, 0], had[:, 1] = True, False
        ones = np.ones((1, num_models))
        found = influence.differences(had, random.random(num_models), ones)
        assert np.isnan(found[0, :2]).all() and not np.isinf(found).any(), num_models
