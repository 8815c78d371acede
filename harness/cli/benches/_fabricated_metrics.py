"""Generate random but plausible metrics for a stage of each kind, for `_fabricate`.

docs/architecture.md describes the kinds, such as adopt (load an existing model).
The log-odds of a transfer accuracy are a sum of the target's difficulty, the model's quality, the
method's gain, an effect of the training set's size and of the steps, and noise. `quality` is the
log-odds of the model's ImageNet accuracy.
"""

import json
import math
import random
from functools import cache
from typing import Any

from harness.config import grid
from harness.config.methods import settings_model
from harness.config.training_kind import kind_of_weights
from harness.config.transfer import TransferSettings
from harness.matrix.scores import Scores
from harness.matrix.stage import Stage
from harness.stages.adopt.record import AdoptMetrics
from harness.stages.evaluate.record import CoarseScores, EvaluateMetrics, EvaluationAttackRecord
from harness.stages.features.record import FeaturesMetrics
from harness.stages.pretrain.record import PretrainMetrics
from harness.stages.rank.record import RankMetrics
from harness.stages.score.record import ScoreMetrics
from harness.stages.transfer.record import GridEntry, TransferMetrics
from harness.stages.write.record import WriteMetrics
from writers.subset.base import num_of

NUM_TEST_IMAGES = 2000  # of every target
NUM_SOURCE_CLASSES = 1000
IMAGES_PER_CLASS = 1281
# Method -> term in the log-odds of its accuracy; 0 for methods that are not listed.
METHOD_GAINS = {"full": 1.0, "l2sp": 1.1, "scratch": -0.8, "logreg": 0.1}
CLASSES = tuple(f"n{index:08d}" for index in range(NUM_SOURCE_CLASSES))
SCORE_NOISE = 0.1  # standard deviation of a score around the model's quality
SPANS_MS = {"data_wait": 1.0, "copy": 0.5, "forward": 30.0, "backward": 60.0, "optimizer": 4.0}


def quality(stage: Stage, rng: random.Random) -> float:
    """Draw the log-odds of a model's ImageNet accuracy; only noise differs between seeds."""
    axes = stage.axes
    setting = random.Random(
        str([axes.get(axis) for axis in ("model", "arch", "subset", "variant")])
    )
    return setting.uniform(0.5, 2.0) - 0.2 * (axes.get("eps") or 0.0) + rng.gauss(0, 0.02)


def _scores(log_odds: float, num_images: int = NUM_TEST_IMAGES, metric: str = "top1") -> Scores:
    num_correct = round(num_images / (1 + math.exp(-log_odds)))
    top1 = num_correct / num_images
    scores: Scores = {
        "top1": top1,
        "top5": 1 - (1 - top1) ** 2,
        "loss": 1.5 * (1 - top1),
        "num_images": num_images,
        "num_correct": num_correct,
    }
    if metric == "map50_11":
        return {
            "map50_11": 0.6 * top1,
            "map50": 0.61 * top1,
            "num_images": num_images,
            "num_objects": 3 * num_images,
            "num_detections": 30 * num_images,
        }
    if metric == "map11":
        return {**scores, "map": 0.98 * top1, "map11": 0.97 * top1}
    return {**scores, "mean_per_class": 0.99 * top1}


def _num_classes(stage: Stage) -> int:
    """Number of classes of a target: fixed per dataset; 20 if images have several labels."""
    if stage.config.get("metric") in ("map11", "map50_11"):
        return 20
    return random.Random(stage.axes.get("target", stage.axes.get("dataset"))).randint(10, 200)


def _subset_classes(stage: Stage) -> list[str]:
    subset = stage.config.get("subset")
    if subset is None:
        return [f"{stage.axes['dataset']}_{index}" for index in range(_num_classes(stage))]
    if subset.get("classes"):
        return list(subset["classes"])
    return list(CLASSES[: _num_kept(subset)])


def _num_kept(subset: dict[str, Any]) -> int:
    num_kept = NUM_SOURCE_CLASSES
    for step in [{"remove": subset.get("remove")}, *(subset.get("steps") or [])]:
        values = next(iter(step.values())) or {}
        removed = num_of(values.get("hardest") or values.get("easiest"), num_kept)
        kept = values.get("bottom_up") or values.get("top_down") or values.get("classes")
        num_kept = kept if isinstance(kept, int) else num_kept - removed
    return num_kept


def write(stage: Stage) -> WriteMetrics:
    """Make the metrics of a write stage."""
    classes = _subset_classes(stage)
    return {
        "splits": {
            split: {
                "path": f"{stage.name}/{split}.beton",
                "num_samples": (IMAGES_PER_CLASS if split == "train" else 50) * len(classes),
                "bytes": 40_000_000 * len(classes),
                "sha256": stage.key * 3 + "0000",
            }
            for split in stage.config["splits"]
        },
        "classes": classes,
        "subset": {
            "name": str(stage.axes.get("subset")),
            "num_classes": len(classes),
            "digest": stage.key,
        },
        "img_per_s": 800.0,
    }


def pretrain(stage: Stage, quality: float) -> PretrainMetrics:
    """Make the metrics of a pretrain stage."""
    num_classes = len(_subset_classes(stage.needs["data"]))
    is_longer = stage.config["settings"].get("length") == "equal_steps"
    # Give each length its own number of steps, because the report counts trainings with equal
    # images and steps as one model.
    num_steps = 200_000 if is_longer else 150 * num_classes
    return {
        "val": _scores(quality, 50 * num_classes),
        "val_of_last_step": None,
        "train_loss": 1.0,
        "epochs": [],
        "num_classes": num_classes,
        "num_train_images": IMAGES_PER_CLASS * num_classes,
        "num_steps": num_steps,
        "eps": stage.axes.get("eps") or 0.0,
        "eps_resolution": 224,
        "eps_used": {},
        "precision": "float32",
        "compiled": "eager",
        "num_parts": 1,
        "num_processes": 1,
        "num_parameters": 11_000_000,
        "zero_gradients": 0,
        "damaged_checkpoints": [],
    }


def adopt(stage: Stage, quality: float) -> AdoptMetrics:
    """Make the metrics of an adopt stage."""
    top1 = _scores(quality)["top1"]
    return {
        "arch": stage.axes["model"],
        "num_parameters": 25_000_000,
        "num_backbone_parameters": 23_000_000,
        "feature_dim": 2048,
        "num_classes": 1000,
        "eps": 0.0,
        "resolution": 224,
        "eval_crop": 0.875,
        "flops": 4e9,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "imagenet_top1": top1,
        "imagenet_top5": 1 - (1 - top1) ** 2,
        "licence": None,
        "training": kind_of_weights(stage.axes["model"], has_head=True),
        "weights": None,
        "sha256": None,
    }


def rank(rng: random.Random) -> RankMetrics:
    """Make the metrics of a rank stage."""
    accuracy = sorted(rng.betavariate(6, 2) for _ in CLASSES)
    return {
        "classes": list(CLASSES),
        "accuracy": dict(zip(CLASSES, accuracy, strict=True)),
        "num_images": dict.fromkeys(CLASSES, 50),
        "split": "held_out",
        "tie_break": "name",
        "precision": "float32",
    }


def evaluate(stage: Stage, quality: float) -> EvaluateMetrics:
    """Make the metrics of an evaluate stage."""
    eps = stage.axes.get("eps") or 0.0
    clean = {
        view: _scores(quality + bonus, 40_000)
        for view, bonus in (("own", 0.0), ("common_unmasked", 0.05), ("common_masked", 0.15))
    }
    attacked = {view: _scores(quality - 1.5 + eps / 10, 40_000) for view in clean} if eps else None
    attack: EvaluationAttackRecord | None = None
    if eps:
        attack = {
            "norm": "l2",
            "eps": eps,
            "steps": 10,
            "step_size": eps / 4,
            "resolution": 224,
            "restarts": 1,
            "zero_gradients": 0,
            "logits": "scored",
            "compiled": "eager",
        }
    coarse: dict[str, CoarseScores] = {
        name: {
            "num_labels": len(_subset_classes(stage.needs[role])),
            "clean": {by: _scores(quality + 0.3, 40_000) for by in ("sum", "max")},
            "adversarial": None,
        }
        for role, name in stage.config.get("coarse", {}).items()
    }
    return {
        "num_common_classes": 800,
        "common_classes": list(CLASSES[:800]),
        "clean": clean,
        "adversarial": attacked,
        "coarse": coarse,
        "per_class": {},
        "attack": attack,
        "precision": "float32",
        "predictions": "predictions.npz",
    }


def features(stage: Stage) -> FeaturesMetrics:
    """Make the metrics of a features stage."""
    num_classes = _num_classes(stage)
    return {
        "splits": {
            split: {"file": f"{split}.npz", "bytes": 8_000_000, "num_images": 1000}
            for split in stage.config["splits"]
        },
        "classes": [f"class_{index}" for index in range(num_classes)],
        "num_features": 2048,
        "num_source_classes": 1000,
        "has_probs": True,
        "resolution": 224,
        "eval_crop": 0.875,
        "precision": "float32",
    }


def score(stage: Stage, quality: float, rng: random.Random) -> ScoreMetrics:
    """Make the metrics of a score stage."""
    return {
        "scores": {
            name: quality + _difficulty(stage) + rng.gauss(0, SCORE_NOISE)
            if name != "knn"
            else _scores(quality + _difficulty(stage) + rng.gauss(0, SCORE_NOISE), 1000)["top1"]
            for name in stage.config["scores"]
        },
        "details": {},
        "failed": {},
        "split": "train",
        "num_duplicates": 0,
        "num_images": 1000,
        "num_features": 2048,
        "num_source_classes": 1000,
        "num_classes": _num_classes(stage),
    }


@cache
def _difficulty_of(target: str) -> float:
    return random.Random(f"difficulty of {target}").uniform(-1.5, 1.5)


def _difficulty(stage: Stage) -> float:
    return _difficulty_of(stage.axes["target"])


def transfer(stage: Stage, quality: float, rng: random.Random) -> TransferMetrics:
    """Make the metrics of a transfer stage."""
    axes, config, metric = stage.axes, stage.config, stage.config["metric"]
    method = config["method"]
    model_effect = 0.0 if method == "scratch" else max(quality, 0.0)
    size_effect = 0.1 * math.log((axes.get("per_class") or 1000) * (axes.get("steps") or 10**5))
    log_odds = (
        _difficulty(stage)
        + model_effect
        + METHOD_GAINS.get(method, 0.0)
        + size_effect
        - 1.8
        + rng.gauss(0, 0.05)
    )
    points = _points(method, json.dumps(config["settings"], sort_keys=True))
    best = rng.randrange(len(points))
    entries: list[GridEntry] = [
        {
            **point,
            "val": _scores(
                log_odds - (0.0 if index == best else rng.uniform(0.05, 2.0)), 500, metric
            ),
            **(
                {"converged": True, "largest_gradient": 1e-6, "gap": 1e-9}
                if "lambda" in point
                else {}
            ),
        }
        for index, point in enumerate(points)
    ]
    chosen = points[best]
    metrics: TransferMetrics = {
        "metric": metric,
        "test": _scores(log_odds, metric=metric),
        "val": entries[best]["val"],
        "lr": float(chosen["lr"]) if "lr" in chosen else None,
        "chosen": chosen,
        "grid": entries,
        "policy": config["settings"].get("policy", "full"),
        "selected_on": "val",
        "num_configs": len(points),
        "refit": False,
        "num_epochs": None,
        "num_steps": axes.get("steps"),
        "num_classes": _num_classes(stage),
        "num_train_images": 5000,
        "num_fit_images": 5000,
        "bn_stats": "update",
        "precision": "float32",
        "source_eps": axes.get("eps"),
        "damaged_checkpoints": [],
    }
    if metric != "map50_11":
        metrics["predictions"] = "predictions.npz"
    return metrics


@cache
def _points(method: str, settings_text: str) -> list[grid.Point]:
    """Points of a method's grid, with the evaluation crops."""
    settings = settings_model(method).model_validate_json(settings_text)
    crops = settings.grid.eval_crop or ()
    trained: list[grid.Point]
    if isinstance(settings, TransferSettings):
        trained = [trial.point for trial in grid.trials(settings)]
    else:
        trained = [{"lambda": value} for value in json.loads(settings_text)["lambdas"]]
    if not crops:
        return trained
    return [{**point, "eval_crop": crop} for point in trained for crop in crops]


def timing(rng: random.Random) -> dict[str, Any]:
    """Make the timing of a stage that trains."""
    return {
        "per_step_ms": {span: ms * rng.uniform(0.9, 1.1) for span, ms in SPANS_MS.items()},
        "num_steps": 1000,
        "train_s": 90.0,
        "eval_s": 5.0,
        "checkpoint_s": 1.0,
        "startup_s": 2.0,
        "img_per_s": 2000.0,
        "replay_img_per_s": 2050.0,
        "gpu_fed": 0.97,
        "data_wait_fraction": 0.01,
        "verdict": "The network is the bottleneck.",
    }
