"""Fake results for all stages of a recipe: keys and settings are real, numbers are plausible."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config.data import DataSettings
from harness.config.recipe import RankingSettings, Recipe
from harness.config.transfer import TransferSettings
from harness.matrix.expand import expand
from harness.matrix.stage import Stage
from harness.runner.result import Result

# Classes in the order of the fake ranking, hardest first.
CLASSES = tuple(
    f"n{index:02d}_{noun}"
    for index, noun in enumerate(
        (
            "crane",
            "ibis",
            "wrench",
            "ladle",
            "scorpion",
            "platypus",
            "anchor",
            "beaver",
            "lobster",
            "cup",
            "chair",
            "lamp",
            "mandolin",
            "menorah",
            "pagoda",
            "rooster",
            "sunflower",
            "stegosaurus",
            "soccer_ball",
            "accordion",
            "inline_skate",
            "motorbike",
            "airplane",
            "car_side",
        )
    )
)
REMOVED = {"all": (), "minus3": CLASSES[:3], "minus6": CLASSES[:6]}
TARGET_CLASSES = {"grocery": 81, "clothing": 10}
SPANS_MS = {
    "data_wait": 3.1,
    "copy": 0.8,
    "attack": 60.0,
    "forward": 11.0,
    "backward": 20.0,
    "optimizer": 2.2,
}


def make_recipe(
    *,
    eps: Sequence[float] = (0.0, 0.25, 0.5),
    seeds: Sequence[int] = (0,),
    archs: Sequence[str] = ("resnet10",),
    targets: Sequence[str] = ("grocery", "clothing"),
    methods: Sequence[str] = ("fixed", "full"),
    **others: Any,
) -> Recipe:
    settings = TransferSettings(epochs=8, lrs=(0.1, 0.01))
    metrics: dict[str, Any] = {"grocery": "mean_per_class"}
    return Recipe(
        **{
            "name": "photos",
            "question": "Do fewer, easier classes transfer better, and does robustness help?",
            "source": DataSettings(path="caltech101.tar"),
            "ranking": RankingSettings(),
            "subsets": (
                "all",
                *({"name": f"minus{count}", "remove": {"hardest": count}} for count in (3, 6)),
            ),
            "archs": tuple(archs),
            "eps": tuple(eps),
            "seeds": tuple(seeds),
            "targets": tuple(
                DataSettings(path=f"{name}.tar", name=name, metric=metrics.get(name, "top1"))
                for name in targets
            ),
            "methods": {name: settings for name in methods},
            **others,
        }
    )


def make_results(recipe: Recipe) -> list[Result]:
    """Make a result for every stage of the recipe."""
    return [_result(stage) for stage in expand(recipe).stages]


def scores(top1: float, num_images: int, **others: float) -> dict[str, Any]:
    num_correct = round(min(max(top1, 0.01), 0.99) * num_images)
    top1 = num_correct / num_images
    return {
        "top1": top1,
        "top5": 1 - (1 - top1) ** 3,
        "mean_per_class": 0.97 * top1,
        "loss": 1 - top1,
        "num_images": num_images,
        "num_correct": num_correct,
        **others,
    }


def replace_metrics(result: Result, **metrics: Any) -> Result:
    return result.model_copy(update={"metrics": {**result.metrics, **metrics}})


def _result(stage: Stage) -> Result:
    rng = random.Random(stage.name)
    metrics = {
        "write": _write,
        "pretrain": _pretrain,
        "rank": _rank,
        "evaluate": _evaluate,
        "transfer": _transfer,
    }[stage.kind](stage, rng)
    seconds = {"write": 4.0, "pretrain": 190.0, "rank": 2.5, "evaluate": 21.0, "transfer": 47.0}[
        stage.kind
    ]
    return Result(
        kind=stage.kind,
        key=stage.key,
        name=stage.name,
        axes=stage.axes,
        config=stage.config,
        needs={role: need.key for role, need in stage.needs.items()},
        metrics=metrics,
        timing=_timing(stage, rng) if stage.kind in ("pretrain", "transfer") else {},
        environment={
            "python": "3.11.9",
            "platform": "Linux x86_64",
            "cpu": "AMD EPYC 7B13",
            "num_cores": 2,
            "gpu": None,
            "packages": {
                "torch": "2.15.0",
                "torchvision": "0.30.0",
                "ffcv": "1.0.2",
                "numpy": "2.3.4",
            },
            "num_threads": 1 if stage.kind == "write" else 2,
            "device": "cpu",
        },
        started_at=f"2026-11-21T05:{len(stage.name) % 60:02d}:07+00:00",
        wall_s=seconds * rng.uniform(0.8, 1.2),
    )


def _write(stage: Stage, rng: random.Random) -> dict[str, Any]:
    dataset, subset = stage.axes["dataset"], stage.axes["subset"]
    if dataset in TARGET_CLASSES:
        classes = [f"{dataset}_{index}" for index in range(TARGET_CLASSES[dataset])]
    else:
        classes = [
            name
            for name in sorted(CLASSES, key=lambda name: name[4:])
            if name not in REMOVED.get(subset, ())
        ]
    return {
        "splits": {
            split: {
                "path": f"{stage.name}/{split}.beton",
                "num_samples": 40 * len(classes),
                "bytes": 120_000 * len(classes),
                "sha256": stage.key * 3 + "0000",
            }
            for split in stage.config["splits"]
        },
        "classes": classes,
        "subset": {"name": subset, "num_classes": len(classes), "digest": stage.key},
        "img_per_s": 800.0,
    }


def _pretrain(stage: Stage, rng: random.Random) -> dict[str, Any]:
    num_classes = len(CLASSES) - len(REMOVED.get(stage.axes["subset"], ()))
    return {
        "val": scores(0.6, 960),
        "train_loss": 0.5,
        "epochs": [],
        "num_classes": num_classes,
        "num_train_images": 4000,
        "num_steps": 700 if stage.config["settings"].get("length") == "equal_steps" else 500,
        "eps": stage.axes["eps"],
        "eps_resolution": 64,
        "precision": "float32",
        "num_parameters": 1_200_000,
    }


def _rank(stage: Stage, rng: random.Random) -> dict[str, Any]:
    accuracy = {
        name: round(0.12 + 0.86 * (index / (len(CLASSES) - 1)) ** 0.6, 3)
        for index, name in enumerate(CLASSES)
    }
    return {
        "classes": list(CLASSES),
        "accuracy": accuracy,
        "num_images": dict.fromkeys(CLASSES, 40),
        "split": "val",
        "tie_break": "class name",
    }


def _evaluate(stage: Stage, rng: random.Random) -> dict[str, Any]:
    eps, num_removed = stage.axes["eps"], len(REMOVED[stage.axes["subset"]])
    masked = 0.71 - 0.22 * eps + rng.gauss(0, 0.006)
    unmasked = masked - 0.009 * (6 - num_removed)
    common = [name for name in CLASSES if name not in REMOVED["minus6"]]

    def views(drop: float) -> dict[str, Any]:
        return {
            "common_unmasked": scores(unmasked - drop, 720),
            "common_masked": scores(masked - drop, 720),
            "own": scores(unmasked - drop - 0.03, 40 * (24 - num_removed)),
        }

    return {
        "num_common_classes": len(common),
        "common_classes": common,
        "clean": views(0.0),
        "adversarial": views(0.3 * eps + 0.1) if eps else None,
        "attack": {"norm": "l2", "eps": eps, "steps": 20, "step_size": eps / 8, "resolution": 64}
        if eps
        else None,
    }


def _transfer(stage: Stage, rng: random.Random) -> dict[str, Any]:
    axes = stage.axes
    base = {"grocery": 0.55, "clothing": 0.74}.get(axes["target"], 0.5)
    gain = 0.06 if axes["method"] == "full" else 0.0
    eps = axes.get("eps", 0.0)  # networks from random weights have neither eps nor subset
    robust, fewer = 0.12 * eps * (1 - eps), 0.004 * len(REMOVED[axes.get("subset", "all")])
    top1 = base + gain + robust - fewer + rng.gauss(0, 0.008)
    test = scores(top1, 2485 if axes["target"] == "grocery" else 372)
    lrs: Mapping[str, Any] = stage.config["settings"]
    grid = [
        {"lr": lr, "val": scores(top1 - 0.02 * index, 300)} for index, lr in enumerate(lrs["lrs"])
    ]
    return {
        "metric": stage.config["metric"],
        "test": test,
        "val": grid[0]["val"],
        "lr": grid[0]["lr"],
        "grid": grid,
        "num_configs": len(grid),
        "selected_on": "val",
        "num_epochs": 8,
        "num_train_images": 2000,
        "num_classes": TARGET_CLASSES.get(axes["target"], 50),
        "bn_stats": "frozen",
    }


def _timing(stage: Stage, rng: random.Random) -> dict[str, Any]:
    per_step = {name: value * rng.uniform(0.8, 1.3) for name, value in SPANS_MS.items()}
    if not stage.axes.get("eps") or stage.kind == "transfer":
        per_step["attack"] = 0.0
    total = sum(per_step.values())
    waits = per_step["data_wait"] / total
    return {
        "spans_s": {name: value / 2 for name, value in per_step.items()},
        "per_step_ms": per_step,
        "num_steps": 500,
        "train_s": total / 2,
        "eval_s": 3.0,
        "checkpoint_s": 0.2,
        "startup_s": 2.1,
        "img_per_s": 128_000 / total,
        "replay_img_per_s": 128_000 / (total * (1 - waits)),
        "gpu_fed": 1 - waits,
        "data_wait_fraction": waits,
        "verdict": f"The loader keeps the model busy {100 * (1 - waits):.0f} % of the time.",
    }
