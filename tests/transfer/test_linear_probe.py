"""The linear probe of `harness score --probe`, compared with scikit-learn's fit."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from harness.transfer.features import Features
from harness.transfer.linear_probe import linear_probe
from writers.errors import UserError

NUM_CLASSES, NUM_FEATURES = 3, 8


def split(number: int, seed: int) -> Features:
    """Return features of overlapping classes; the third class has few images."""
    random = np.random.default_rng(seed)
    labels = random.choice(NUM_CLASSES, number, p=[0.5, 0.4, 0.1])
    centers = np.random.default_rng(0).normal(0, 0.8, (NUM_CLASSES, NUM_FEATURES))
    features = (centers[labels] + random.normal(size=(number, NUM_FEATURES))).astype(np.float32)
    return Features(features, None, labels, np.arange(number, dtype=np.uint64))


@pytest.mark.parametrize("has_val", [True, False])
def test_accuracies_equal_those_of_scikit_learn_with_the_chosen_penalty(has_val: bool):
    train, test = split(200, 1), split(150, 3)
    val = split(80, 2) if has_val else None
    probe = linear_probe(train, val, test)
    parts = [train, val] if val is not None else [train]
    images, labels = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("features", "labels")
    )
    mean, deviation = images.mean(axis=0), images.std(axis=0)
    theirs = LogisticRegression(C=1 / probe["penalty"], tol=1e-10, max_iter=20_000)
    theirs.fit((images - mean) / deviation, labels)
    predicted = theirs.predict((test.features - mean) / deviation)
    assert probe["num_fitted"] == len(labels)
    assert probe["selected_on"] == ("val" if has_val else "20% of train")
    assert probe["num_correct"] == pytest.approx((predicted == test.labels).sum(), abs=1)
    assert probe["top1"] == pytest.approx(accuracy_score(test.labels, predicted), abs=0.01)
    balanced = balanced_accuracy_score(test.labels, predicted)
    assert probe["mean_per_class"] == pytest.approx(balanced, abs=0.05)


def test_a_probe_needs_a_test_split():
    with pytest.raises(UserError, match="no test split"):
        linear_probe(split(40, 1), None, None)


def test_a_probe_needs_one_label_per_image():
    several = Features(
        *[getattr(split(40, 1), name) for name in ("features", "probs")],
        np.ones((40, 3), np.int8),
        np.arange(40, dtype=np.uint64),
    )
    with pytest.raises(UserError, match="several labels"):
        linear_probe(several, None, split(40, 2))
