"""Write made-up results for every stage of a recipe at full size, to time the code that reads them.

Stages, their keys, their axes (subset, eps, seed, ...) and grids of hyper-parameters follow from
the recipe. Numbers are random but plausible, and differ between models, targets, methods and seeds
(`_fabricated_metrics`). A stage gets the same numbers each time.
"""

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.cli.benches import _fabricated_metrics as metrics_of
from harness.matrix.stage import Stage
from harness.runner import result, shortlist
from harness.runner.result import Result
from harness.stages.shortlist.record import ShortlistMetrics

ENVIRONMENT: dict[str, Any] = {
    "python": "3.11",
    "platform": "Linux x86_64",
    "cpu": "fabricated",
    "num_cores": 16,
    "gpu": None,
    "packages": {"torch": "fabricated", "numpy": "fabricated"},
    "device": "cpu",
}


def write_results(stages: Iterable[Stage], runs: Path, *, with_predictions: bool = False) -> int:
    """Write a result.json for each stage into its folder. Nothing is synced to the disk.

    Transfers of models that a shortlist stage does not select get no result.

    Args:
        stages: Stages in an order in which each one follows the stages that it needs.
        runs: Runs folder.
        with_predictions: Write a file of predictions per image, about 20 kB, for each transfer
            except those to detection.

    Returns:
        Number of results.
    """
    qualities: dict[str, float] = {}  # key of a model's stage -> log-odds of its ImageNet accuracy
    scores: dict[str, dict[str, dict[str, float]]] = {}  # score -> model -> target -> value
    chosen: dict[str, list[str]] = {}  # key of a shortlist stage -> models that it selects
    num_results = 0
    for stage in stages:
        if stage.gated_by and stage.axes.get("model") not in chosen[stage.gated_by.key]:
            continue
        record = _make(stage, qualities, scores)
        if stage.spec.chosen_fraction is not None:
            chosen[stage.key] = record.metrics.get("chosen", [])
        folder = stage.folder(runs)
        folder.mkdir(parents=True, exist_ok=True)
        if with_predictions and "predictions" in record.metrics and "test" in record.metrics:
            _write_predictions(folder, record)
        (folder / "stage.json").write_text(json.dumps(stage.to_json()))
        (folder / result.FILE_NAME).write_text(json.dumps(record.model_dump(mode="json")))
        num_results += 1
    return num_results


def _make(
    stage: Stage, qualities: dict[str, float], scores: dict[str, dict[str, dict[str, float]]]
) -> Result:
    rng = random.Random(stage.name)
    metrics: Any
    timing: dict[str, Any] = {}
    if stage.spec.makes_model:
        qualities[stage.key] = metrics_of.quality(stage, rng)
    quality = qualities.get(_model_key(stage), -math.inf)
    match stage.kind:
        case "write":
            metrics = metrics_of.write(stage)
        case "pretrain":
            metrics = metrics_of.pretrain(stage, quality)
        case "adopt":
            metrics = metrics_of.adopt(stage, quality)
        case "rank":
            metrics = metrics_of.rank(rng)
        case "evaluate":
            metrics = metrics_of.evaluate(stage, quality)
        case "features":
            metrics = metrics_of.features(stage)
        case "score":
            metrics = metrics_of.score(stage, quality, rng)
            for name, value in metrics["scores"].items():
                of_models = scores.setdefault(name, {})
                of_models.setdefault(stage.axes.get("model", ""), {})[stage.axes["target"]] = value
        case "transfer":
            metrics = metrics_of.transfer(stage, quality, rng)
        case "shortlist":
            metrics = _shortlist(stage, scores)
        case _:
            metrics = {}  # the report reads no metrics of the remaining kinds of stages
    if stage.kind in ("pretrain", "transfer"):
        timing = metrics_of.timing(rng)
    return Result(
        kind=stage.kind,
        key=stage.key,
        name=stage.name,
        axes=stage.axes,
        config=stage.config,
        needs={role: need.key for role, need in stage.needs.items()},
        metrics=metrics,
        timing=timing,
        environment=ENVIRONMENT,
        started_at="2026-11-21T05:00:07+00:00",
        wall_s=100 * rng.uniform(0.8, 1.2),
    )


def _model_key(stage: Stage) -> str:
    """Return the key of the stage that makes this stage's model, which may be the stage itself.

    Returns "" if the stage uses no model.
    """
    if stage.spec.makes_model:
        return stage.key
    if "model" in stage.needs:
        return stage.needs["model"].key
    features = (need for role, need in stage.needs.items() if role.split("_")[0] == "features")
    return next((_model_key(need) for need in features), "")


def _shortlist(stage: Stage, scores: dict[str, dict[str, dict[str, float]]]) -> ShortlistMetrics:
    by, best = stage.config["by"], stage.config["best"]
    ranking = shortlist.rank(scores.get(by, {}))
    return {
        "by": by,
        "best": best,
        "chosen": [row["model"] for row in ranking[:best]],
        "ranking": ranking,
        "left_out": {},
        "num_missing": 0,
    }


def _write_predictions(folder: Path, record: Result) -> None:
    import numpy as np

    test, num_classes = record.metrics["test"], record.metrics["num_classes"]
    random_state = np.random.default_rng(int(record.key[:8], 16))
    count, targets = test["num_images"], np.random.default_rng(num_classes)  # same for all models
    arrays: dict[str, Any]
    if record.metrics["metric"] == "map11":
        present = targets.random((count, num_classes)) < 0.1
        labels = np.where(present, 1, -1).astype(np.int8)
        noise = random_state.standard_normal((count, num_classes))
        arrays = {"test_scores": (present + 0.4 * noise).astype(np.float32)}
        correct = np.ones(count, bool)
    else:
        labels = targets.integers(num_classes, size=count, dtype=np.int32)
        correct = random_state.permutation(count) < test["num_correct"]
        arrays = {"test_predicted": np.where(correct, labels, (labels + 1) % num_classes)}
    np.savez(
        folder / record.metrics["predictions"],
        sample=np.arange(count, dtype=np.uint64),
        label=labels,
        test_correct=correct,
        **arrays,
    )
