"""Statistical tests over test images, computed from the prediction files of stages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.runner.result import Result
from tests.helpers import study_fakes as fakes


def predictions(
    folder: Path, results: list[Result], right: Any, order: Any = None
) -> dict[str, Path]:
    """Write prediction files as transfer stages do, and return them by stage key.

    Args:
        right: result -> which images are classified correctly, bool [N].
        order: result -> permutation of the images in its file; None for the same order in all.
    """
    found = {}
    labels = np.arange(fakes.NUM_IMAGES, dtype=np.int32) % 7
    ids = np.arange(fakes.NUM_IMAGES, dtype=np.uint64) * 977
    for number, result in enumerate(result for result in results if result.kind == "transfer"):
        places = np.arange(fakes.NUM_IMAGES) if order is None else order(result)
        path = folder / f"{number}.npz"
        correct = right(result)
        np.savez(
            path,
            sample=ids[places],
            label=labels[places],
            test_predicted=np.where(correct, labels, -1)[places],
            test_correct=correct[places],
        )
        found[result.key] = path
    return found


def test_mcnemar_from_stored_predictions_in_any_order_of_images(tmp_path: Path) -> None:
    results = fakes.model_zoo(num_models=1, targets=("pets",), with_scores=False)
    random = np.random.default_rng(0)
    correct = {
        "fixed": random.random(fakes.NUM_IMAGES) < 0.70,
        "full": random.random(fakes.NUM_IMAGES) < 0.74,
    }
    files = predictions(
        tmp_path,
        results,
        lambda result: correct[result.axes["method"]],
        lambda result: np.random.default_rng(len(result.axes["method"])).permutation(
            fakes.NUM_IMAGES
        ),
    )
    found, _ = fakes.analyzed(results, files)
    (row,) = found.image_tests
    only = (
        int((correct["full"] & ~correct["fixed"]).sum()),
        int((correct["fixed"] & ~correct["full"]).sum()),
    )
    assert (row.setting, row.baseline, row.target, row.test) == ("full", "fixed", "pets", "McNemar")
    assert (row.only_setting, row.only_baseline) == only
    assert row.p == pytest.approx(scipy_stats.binomtest(only[0], sum(only)).pvalue) == row.p_holm
    assert row.difference == pytest.approx((only[0] - only[1]) / fakes.NUM_IMAGES)


def test_the_best_two_models_of_a_target_are_compared_over_their_seeds(tmp_path: Path) -> None:
    results = fakes.model_zoo(
        num_models=5, targets=("pets", "cars"), methods=("full",), seeds=(0, 1), with_scores=False
    )
    files = predictions(
        tmp_path,
        results,
        lambda result: np.random.default_rng(len(result.key)).random(fakes.NUM_IMAGES) < 0.8,
    )
    found, _ = fakes.analyzed(results, files)
    assert [(row.axis, row.test, row.num_seeds) for row in found.image_tests] == [
        ("model", "exact exchange", 2)
    ] * 2
    assert {row.setting for row in found.image_tests} == {"torchvision/net4"}


def test_unusable_files_are_not_tested(tmp_path: Path) -> None:
    results = fakes.model_zoo(num_models=1, targets=("pets",), with_scores=False)
    files = predictions(tmp_path, results, lambda result: np.ones(fakes.NUM_IMAGES, bool))
    first, second = files.values()
    np.savez(
        first,
        sample=np.arange(3, dtype=np.uint64),
        label=np.zeros(3, np.int32),
        test_correct=np.ones(3, bool),
    )
    assert fakes.analyzed(results, files)[0].image_tests == []  # other images
    good: dict[str, Any] = {
        "sample": np.arange(3, dtype=np.uint64),
        "label": np.zeros(3, np.int32),
        "test_correct": np.ones(3, bool),
    }
    for wrong in (
        {"test_correct": np.ones(2, bool)},
        {"test_correct": np.ones((3, 2), bool)},
        {"test_correct": np.full(3, np.nan)},
        {"label": np.full(3, -1)},
        {"label": np.full(3, 2**40)},
        {"label": np.zeros((3, 2), np.int8), "test_scores": np.full((3, 2), np.nan)},
        {name: array[:0] for name, array in good.items()},
    ):
        for file in (first, second):
            np.savez(file, **{**good, **wrong})
        assert fakes.analyzed(results, files)[0].image_tests == [], wrong
    with second.open("wb") as array:
        np.save(array, np.ones(3))  # one array instead of an archive
    assert fakes.analyzed(results, files)[0].image_tests == []
    second.write_bytes(b"PK\x03\x04 cut short")
    assert fakes.analyzed(results, files)[0].image_tests == []
    second.unlink()
    assert fakes.analyzed(results, files)[0].image_tests == []


def test_mean_average_precision_is_tested_from_saved_scores(tmp_path: Path) -> None:
    """The test reads files of an evaluation; its difference is that of the evaluation's scores."""
    torch = pytest.importorskip("torch")
    from harness.train.average_precision import MultiLabelCounts
    from harness.train.predictions import FILE, save_arrays

    random = np.random.default_rng(4)
    labels = random.choice([-1, 0, 1], (60, 3), p=[0.6, 0.1, 0.3]).astype(np.int8)
    results, files, maps = [], {}, {}
    for result in fakes.model_zoo(num_models=1, targets=("voc",), with_scores=False):
        if result.kind == "transfer":
            counts = MultiLabelCounts()
            noise = {"fixed": 4.0, "full": 0.5}[result.axes["method"]]
            counts.add(
                torch.tensor(labels + random.normal(0, noise, labels.shape)), torch.tensor(labels)
            )
            scores = counts.scores()
            folder = tmp_path / result.axes["method"]
            save_arrays(
                folder, np.arange(60, dtype=np.uint64), labels, {"test": counts.predictions()}
            )
            files[result.key], maps[result.axes["method"]] = folder / FILE, scores["map11"]
            result = result.model_copy(
                update={
                    "metrics": {
                        **result.metrics,
                        "metric": "map11",
                        "test": scores,
                        "val": scores,
                        "grid": [{**point, "val": scores} for point in result.metrics["grid"]],
                    }
                }
            )
        results.append(result)
    (row,) = fakes.analyzed(results, files)[0].image_tests
    assert (row.metric, row.test, row.num_images) == ("map11", "permutation", 60)
    assert row.difference == pytest.approx(maps["full"] - maps["fixed"]) and row.p < 0.01
