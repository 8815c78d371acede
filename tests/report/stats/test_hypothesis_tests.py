"""Statistics against scipy, exhaustive counting, and examples worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.report.stats import hypothesis_tests, intervals, map_test, summaries
from tests.helpers.permutations import permutation_test

RANDOM = np.random.default_rng(0)
SIZES_MULTIPLE = math.lcm(*range(1, 10))  # makes differences of 1/1 ... 1/9 whole numbers


def test_logit_stays_finite_and_is_monotone():
    values = summaries.logit(np.array([0.0, 0.1, 0.5, 1.0]), 100)
    assert values[2] == 0 and np.isfinite(values).all() and (np.diff(values) > 0).all()
    assert values[0] == pytest.approx(math.log(0.005 / 0.995))
    assert values[3] == pytest.approx(-values[0])


def test_errors_ignore_the_difficulty_of_datasets():
    """Adding a constant to a dataset's scores changes no error. 5 / 4 is Morey's factor."""
    scores = RANDOM.normal(0, 1, (5, 12))
    found, shifted = (
        summaries.dataset_adjusted_means(scores),
        summaries.dataset_adjusted_means(scores + 10 * RANDOM.normal(size=12)),
    )
    assert shifted.standard_error == pytest.approx(found.standard_error)
    row = scores[2] - scores.mean(axis=0)
    assert found.standard_error[2] == pytest.approx(scipy_stats.sem(row) * math.sqrt(5 / 4))
    assert found.mean == pytest.approx(scores.mean(axis=1))
    assert np.isnan(summaries.dataset_adjusted_means(scores[:1]).standard_error).all()


def test_correlation_is_one_for_a_line_and_nan_for_a_constant():
    x = np.arange(10.0)
    line = summaries.correlation(x, 3 * x + 1)
    assert line.r == pytest.approx(1) and line.rho == pytest.approx(1)
    noisy = summaries.correlation(x, x + RANDOM.normal(0, 3, 10))
    assert noisy.low < noisy.r < noisy.high < 1
    assert math.isnan(summaries.correlation(x, np.ones(10)).r)
    assert math.isnan(summaries.correlation(x[:2], x[:2]).r)


def test_ranking_measures_by_hand():
    accuracy = np.array([0.9, 0.8, 0.7, 0.6])
    assert summaries.weighted_kendall(accuracy, accuracy) == pytest.approx(1)
    assert summaries.weighted_kendall(-accuracy, accuracy) == pytest.approx(-1)
    score = np.array([1, 4, 3, 2])  # its best two: models 1 and 2
    assert summaries.recall_at(2, score, accuracy) == 0.5
    assert summaries.recall_at(4, score, accuracy) == 1
    assert summaries.relative_accuracy_at(1, score, accuracy) == pytest.approx(0.8 / 0.9)
    assert summaries.relative_accuracy_at(4, score, accuracy) == 1
    assert summaries.relative_accuracy_at(1, score, np.zeros(4)) == 1
    # An exchange at the top costs more than one at the bottom.
    assert summaries.weighted_kendall([4, 3, 1, 2], accuracy) > summaries.weighted_kendall(
        [3, 4, 2, 1], accuracy
    )


def test_times_in_top_counts_ties():
    scores = np.array([[3, 3, 1], [2, 3, 2], [1, 0, 3]])
    assert summaries.times_in_top(1, scores).tolist() == [2, 1, 1]
    assert summaries.times_in_top(9, scores).tolist() == [3, 3, 3]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_mcnemar_equals_exhaustive_exchanges(pairs):
    """p is the fraction of all exchanges with a difference at least as large."""
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    given_difference = abs(int(first.sum()) - int(second.sum()))
    disagreements = [int(a) - int(b) for a, b in pairs if a != b]
    as_extreme = [
        abs(sum(sign * value for sign, value in zip(signs, disagreements, strict=True)))
        >= given_difference
        for signs in itertools.product((1, -1), repeat=len(disagreements))
    ]
    assert hypothesis_tests.mcnemar(first, second) == pytest.approx(np.mean(as_extreme))


def test_permutations_agree_with_mcnemar_and_accept_any_metric():
    labels = RANDOM.integers(0, 3, 60)
    first = np.where(RANDOM.random(60) < 0.9, labels, (labels + 1) % 3)
    second = np.where(RANDOM.random(60) < 0.6, labels, (labels + 1) % 3)

    def top1(predictions):
        return float((predictions == labels).mean())

    def mean_per_class(predictions):
        return float(np.mean([(predictions[labels == k] == k).mean() for k in range(3)]))

    exact = hypothesis_tests.mcnemar(first == labels, second == labels)
    # 4000 permutations: the standard error is at most 0.008.
    assert permutation_test(top1, first, second, num_permutations=4000) == pytest.approx(
        exact, abs=0.02
    )
    assert permutation_test(mean_per_class, first, second, num_permutations=500) < 0.05
    assert permutation_test(top1, first, first, num_permutations=50) == 1
    # An image's scores of several classes are exchanged together.
    matrix = RANDOM.random((60, 3))
    assert (
        permutation_test(lambda m: float(m.sum(axis=1)[0]), matrix, matrix, num_permutations=20)
        == 1
    )


def test_t_test_of_differences_and_its_limits():
    a, b = RANDOM.normal(0, 1, 12), RANDOM.normal(0, 1, 12)
    t_test = hypothesis_tests.one_sample_t_test
    assert t_test(a - b) == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)
    assert math.isnan(t_test((a - b)[:1])) and math.isnan(t_test(a - a))


def test_holm_by_hand():
    # Holm (1979): the smallest p times 4, the next times 3, and so on, never decreasing.
    assert hypothesis_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert hypothesis_tests.holm([0.9, math.nan, 0.8])[0] == 1.0
    assert math.isnan(hypothesis_tests.holm([0.9, math.nan])[1])
    assert hypothesis_tests.holm([]) == []


def test_sign_test_by_hand():
    signs = hypothesis_tests.sign_test(np.array([3, 2, 2, 5, 1]), np.array([1, 1, 2, 4, 9]))
    assert (signs.wins, signs.ties, signs.losses, str(signs)) == (3, 1, 1, "3 of 5")
    assert signs.p == pytest.approx(scipy_stats.binomtest(3, 4).pvalue)
    assert hypothesis_tests.sign_test(np.ones(3), np.ones(3)).p == 1


def test_welch_equals_scipy_and_needs_repeats():
    a, b = RANDOM.normal(0.5, 0.01, 4), RANDOM.normal(0.6, 0.02, 4)
    theirs = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    found = intervals.welch(a, b)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.excludes_zero
    assert intervals.welch(np.array([0.5]), b) is None
    assert intervals.welch(np.array([0.5, 0.5]), np.array([0.25, 0.25])) is None


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=10))
@settings(max_examples=60, deadline=None)
def test_exchange_test_equals_exhaustive_exchanges(differences):
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([value >= abs(sum(differences)) for value in sums])
    assert hypothesis_tests.exchange_test(np.array(differences)) == pytest.approx(expected)


def test_exchange_test_of_one_seed_equals_mcnemar():
    for num_images in (40, 6000):
        first, second = RANDOM.random(num_images) < 0.7, RANDOM.random(num_images) < 0.68
        assert hypothesis_tests.exchange_test(first.astype(int) - second) == pytest.approx(
            hypothesis_tests.mcnemar(first, second), rel=1e-6
        )


def test_sign_flips_agree_with_permutations_of_the_predictions():
    labels = np.repeat(np.arange(4), (40, 10, 5, 25))
    first, second = (
        np.where(RANDOM.random(80) < share, labels, (labels + 1) % 4) for share in (0.85, 0.72)
    )

    def mean_per_class(predictions):
        return float(np.mean([(predictions[labels == k] == k).mean() for k in range(4)]))

    weighted = (
        ((first == labels).astype(int) - (second == labels)) / np.bincount(labels)[labels] / 4
    )
    assert weighted.sum() == pytest.approx(mean_per_class(first) - mean_per_class(second))
    slow = permutation_test(mean_per_class, first, second, num_permutations=3000, seed=1)
    # 3000 permutations: the standard error is at most 0.009.
    assert hypothesis_tests.sign_flip_test(weighted) == pytest.approx(slow, abs=0.03)
    assert hypothesis_tests.sign_flip_test(np.zeros(9)) == 1


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 9)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_sign_flips_equal_exhaustive_exchanges(differences):
    multiples = np.array([value * SIZES_MULTIPLE // size for value, size in differences])
    signs = np.array(list(itertools.product((1, -1), repeat=len(multiples))))
    expected = np.mean(np.abs(signs @ multiples) >= abs(multiples.sum()))
    found = hypothesis_tests.sign_flip_test(np.array([value / size for value, size in differences]))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("num_images", "num_classes", "num_seeds", "bias"),
    [(4000, 60, 1, 0.53), (4000, 60, 3, 0.55), (12000, 300, 5, 0.505)],
)
def test_sign_flips_of_many_class_sizes_agree_with_random_flips(
    num_images, num_classes, num_seeds, bias
):
    random = np.random.default_rng(num_images + num_seeds)
    label = random.choice(num_classes, num_images, p=random.dirichlet(np.full(num_classes, 3.0)))
    signs = np.where(random.random((num_seeds, num_images)) < bias, 1, -1)
    right = (random.random((num_seeds, num_images)) < 0.2) * signs
    weighted = right.sum(axis=0) / np.bincount(label)[label] / num_classes / num_seeds
    changed = weighted[weighted != 0]
    flips = random.integers(0, 2, (4000, len(changed)), np.int8) * 2 - 1
    sampled = np.mean(np.abs(flips @ changed) >= abs(changed.sum()) - 1e-12)
    error = math.sqrt(sampled * (1 - sampled) / 4000) + 1e-3
    assert hypothesis_tests.sign_flip_test(weighted) == pytest.approx(sampled, abs=4 * error)


def test_sign_flips_give_smaller_p_than_random_permutations_can():
    """Holm's adjustment of hundreds of tests needs less than 1e-4, the least p of 10,000 draws."""
    weighted = np.tile(np.repeat(1 / np.arange(5, 45), np.arange(5, 45)), 2)
    weighted[::20] *= -1
    sd = math.sqrt((weighted**2).sum())
    p = hypothesis_tests.sign_flip_test(weighted * 0.25)
    assert 0 <= p < 2 * math.exp(-((weighted.sum() / sd) ** 2) / 2) < 1e-9  # Hoeffding's bound


@pytest.mark.parametrize("noise", [1.05, 1.3, 2.5])
def test_map_permutations_equal_a_plain_loop(noise):
    """A loop over the same permutations, with the evaluation's 11-point AP, gives the same p."""
    average_precision = pytest.importorskip("harness.train.average_precision")
    random = np.random.default_rng(int(noise * 100))
    labels = random.choice([-1, 0, 1], (50, 3), p=[0.6, 0.1, 0.3]).astype(np.int8)
    first = (labels + random.normal(0, 1.0, (50, 3))).round(1)  # rounded: with ties
    second = (labels + random.normal(0, noise, (50, 3))).round(1)

    def map11(scores):
        return float(
            np.mean(
                [average_precision.eleven_point_ap(scores[:, k], labels[:, k]) for k in range(3)]
            )
        )

    difference, p = map_test.map11_permutation_test(
        first, second, labels, num_permutations=60, seed=3
    )
    assert difference == pytest.approx(map11(first) - map11(second))
    assert difference == map_test.map11_difference(first, second, labels)
    assert p == pytest.approx(permutation_test(map11, first, second, num_permutations=60, seed=3))


def test_times_in_top_ignores_missing_values():
    scores = np.array([[0.5, math.nan], [math.nan, math.nan], [0.4, 0.2], [0.3, 0.1]])
    assert summaries.times_in_top(2, scores).tolist() == [1, 0, 2, 1]
