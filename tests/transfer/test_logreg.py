"""The transfer method logreg, compared with scikit-learn: several labels, few images, stops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from harness.runner.context import Stopped
from harness.runner.result import Result
from harness.stages.transfer import run as transfer
from harness.train.average_precision import MultiLabelCounts
from harness.transfer import logistic_regression
from harness.transfer.features import Features, file_of
from tests.helpers.tiny_stages import as_result, context_of

K, D = 4, 24
LAMBDAS = [1e-4, 1e-2, 1.0, 100.0]


def write_features(folder: Path, *, shift: float = 1.0, multi_label: bool = False) -> Result:
    """Write features of 160 train, 60 val and 80 test images, as a features stage does."""
    folder.mkdir()
    random = np.random.default_rng(0)
    centres = random.normal(0, shift, (K, D))
    for split, number in (("train", 160), ("val", 60), ("test", 80)):
        labels = random.integers(0, K, number)
        if multi_label:
            labels = np.where(random.random((number, K)) < 0.3, 1, -1).astype(np.int8)
            labels[random.random((number, K)) < 0.1] = 0
            mixture = (labels == 1).astype(float) @ centres
        else:
            mixture = centres[labels]
        features = (3 * mixture + random.normal(0, 3, (number, D)) + 5).astype(np.float32)
        ids = random.integers(0, 2**63, number).astype(np.uint64)
        Features(features, None, labels, ids).save(file_of(folder, split))
    return as_result("features", {"classes": [f"c{number}" for number in range(K)]})


def run(
    root: Path,
    needs: dict[str, Result],
    metric: str = "top1",
    name: str = "logreg",
    **settings: Any,
):
    config = {
        "method": "logreg",
        "metric": metric,
        "seed": 0,
        "settings": {"lambdas": LAMBDAS, **settings},
    }
    return transfer.run(context_of(root, name, config, needs))


def test_fits_for_all_penalties_equal_those_of_scikit_learn(tmp_path):
    outcome = run(tmp_path, {"features": write_features(tmp_path / "features", shift=0.4)})
    metrics = outcome.metrics
    train, val, test = (
        Features.load(file_of(tmp_path / "features", split)) for split in ("train", "val", "test")
    )
    both = np.concatenate([train.features, val.features]).astype(float)
    mean, deviation = both.mean(0), both.std(0)

    def fit(features: np.ndarray, labels: np.ndarray, penalty: float) -> LogisticRegression:
        return LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=20_000).fit(
            (features - mean) / deviation, labels
        )

    expected = {}
    for entry in metrics["grid"]:
        theirs = fit(train.features, train.labels, entry["lambda"])
        expected[entry["lambda"]] = theirs.score((val.features - mean) / deviation, val.labels)
        assert entry["val"]["top1"] == expected[entry["lambda"]] and entry["converged"]
        assert entry["largest_gradient"] <= 1e-6 and entry["gap"] <= 1e-6
    best = max(expected, key=lambda penalty: (expected[penalty], penalty))
    assert metrics["chosen"] == {"lambda": best}
    assert metrics["num_configs"] == len(LAMBDAS)
    assert metrics["selected_on"] == "val"
    labels = np.concatenate([train.labels, val.labels])
    theirs = fit(both, labels, best).predict((test.features - mean) / deviation)
    answers = np.load(tmp_path / "logreg" / metrics["predictions"])
    assert answers["test_predicted"].tolist() == theirs.tolist()
    assert answers["sample"].tolist() == test.ids.tolist()
    assert (
        metrics["test"]["top1"] == (theirs == test.labels).mean() == answers["test_correct"].mean()
    )
    assert metrics["num_unconverged"] == 0 and metrics["refit"] and metrics["lr"] is None


def test_several_labels_are_fitted_per_class_without_its_difficult_images(tmp_path):
    needs = {"features": write_features(tmp_path / "features", multi_label=True)}
    metrics = run(tmp_path, needs, "map11").metrics
    train, val, test = (
        Features.load(file_of(tmp_path / "features", split)) for split in ("train", "val", "test")
    )
    both = np.concatenate([train.features, val.features]).astype(float)
    labels = np.concatenate([train.labels, val.labels])
    mean, deviation = both.mean(0), both.std(0)
    logits = np.zeros((len(test.labels), K))
    for number in range(K):
        sure = labels[:, number] != 0
        theirs = LogisticRegression(
            C=1 / metrics["chosen"]["lambda"], tol=1e-10, max_iter=20_000
        ).fit(((both - mean) / deviation)[sure], labels[sure, number] == 1)
        logits[:, number] = theirs.decision_function((test.features - mean) / deviation)
    counts = MultiLabelCounts()
    counts.add(torch.tensor(logits), torch.tensor(test.labels))
    assert metrics["test"]["map11"] == pytest.approx(counts.scores()["map11"], abs=1e-6)
    vals = [entry["val"]["map11"] for entry in metrics["grid"]]
    assert metrics["val"]["map11"] == max(vals)
    assert all(entry["converged"] for entry in metrics["grid"])


def test_a_grid_of_crops_and_few_images_per_class(tmp_path):
    sharp, blurred = (
        write_features(tmp_path / "features_1"),
        write_features(tmp_path / "features_0.5", shift=0.05),
    )
    needs = {"features_1": sharp, "features_0.5": blurred}
    metrics = run(tmp_path, needs, grid={"eval_crop": [1.0, 0.5]}).metrics
    assert metrics["chosen"]["eval_crop"] == 1.0
    assert metrics["num_configs"] == 2 * len(LAMBDAS) == len(metrics["grid"])
    few = run(tmp_path, needs, name="few", grid={"eval_crop": [1.0, 0.5]}, per_class=5).metrics
    assert few["num_train_images"] == few["num_fit_images"] == 5 * K and not few["refit"]
    assert few["val"]["top1"] < metrics["val"]["top1"]


def test_a_stage_that_stopped_between_fits_can_run_again(tmp_path):
    needs = {"features": write_features(tmp_path / "features")}
    config = {"method": "logreg", "metric": "top1", "settings": {"lambdas": LAMBDAS}}
    calls = iter(range(100))
    with pytest.raises(Stopped):
        transfer.run(
            context_of(tmp_path, "stopped", config, needs, stop_requested=lambda: next(calls) >= 2)
        )
    again = transfer.run(context_of(tmp_path, "stopped", config, needs)).metrics
    assert again == transfer.run(context_of(tmp_path, "whole", config, needs)).metrics


def test_all_45_penalties_converge_with_more_features_than_images():
    random = np.random.default_rng(1)
    labels = torch.tensor(random.integers(0, 10, 60))
    mixing = random.normal(0, 1, (20, 80)) * 0.7 ** np.arange(20)[:, None]
    features = torch.tensor(
        np.maximum(0, random.normal(0, 1, (60, 20)) @ mixing + 0.1 * random.normal(0, 1, (60, 80)))
    )
    features = logistic_regression.standardization(features)(features)
    path = logistic_regression.fit_path(features, labels, 10)
    assert all(fit.converged for fit in path) and len(path) == 45
    for fit in path[::11]:
        theirs = LogisticRegression(C=1 / fit.penalty, tol=1e-12, max_iter=100_000).fit(
            features.numpy(), labels.numpy()
        )
        logits = torch.tensor(features.numpy() @ theirs.coef_.T + theirs.intercept_)
        loss = (
            torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            + fit.penalty / 2 * (theirs.coef_**2).sum()
        )
        assert fit.loss / 60 <= float(loss) / 60 + 1e-9, (
            "the loss must not exceed that of scikit-learn"
        )
        assert fit.loss / 60 == pytest.approx(float(loss) / 60, abs=1e-6)
