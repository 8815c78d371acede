"""Synthetic results of several studies, with the axes and metrics of real stages."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.data import DataSettings
from harness.config.model import ModelSettings
from harness.config.recipe import Recipe
from harness.config.transfer import TransferSettings
from harness.report.data.collection import Collection
from harness.report.data.records import ScoreRow, TransferRow
from harness.report.data.rows import score_rows, transfer_rows
from harness.report.stats.analysis import Analysis, analyze
from harness.runner.result import Result
from tests.helpers.report_fakes import make_recipe, scores

TARGETS = ("aircraft", "caltech256", "cars", "dtd", "flowers", "food", "pets", "sun397")
NUM_IMAGES = 2000


def stage(
    kind: str,
    axes: Mapping[str, Any],
    metrics: Mapping[str, Any],
    needs: Mapping[str, Result] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Result:
    """Make the result of a stage whose key is its name.

    `needs`: role -> result of a stage that it needs; None means no stages.
    """
    name = "/".join([kind, *map(str, axes.values())])
    return Result(
        kind=kind,
        key=name,
        name=name,
        axes=dict(axes),
        config=dict(config or {}),
        needs={role: result.key for role, result in (needs or {}).items()},
        metrics=dict(metrics),
        environment={"cpu": "AMD EPYC 7B13", "gpu": None, "packages": {"torch": "2.15.0"}},
        started_at="2026-11-21T05:00:07+00:00",
        wall_s=12.0,
    )


def transfer(
    model: Result | None,
    axes: Mapping[str, Any],
    score: float,
    *,
    method: str | None = None,
    grid: Sequence[Mapping[str, Any]] = ({"lr": 0.1}, {"lr": 0.01}),
    num_configs: int | None = None,
    num_images: int = NUM_IMAGES,
    gain: Any = lambda point: 0.0,
) -> Result:
    """Make the result of a transfer that has chosen the grid point with the highest `gain`.

    Args:
        model: result of the model's stage; None for training from scratch.
        axes: axes of the transfer.
        score: test accuracy, a fraction. The val accuracy of the chosen point is 0.01 lower.
        method: name of the method's implementation. None means the name in `axes`.
        grid: settings of the trials.
        num_configs: number of settings that were tried. None means those of `grid`.
        num_images: number of test images.
        gain: grid point -> addition to its val accuracy.
    """
    chosen = max(grid, key=gain)
    tried = [
        {**point, "val": scores(score - 0.01 + gain(point) - gain(chosen), 500)} for point in grid
    ]
    return stage(
        "transfer",
        axes,
        {
            "metric": "top1",
            "test": scores(score, num_images),
            "val": scores(score - 0.01, 500),
            "lr": chosen.get("lr"),
            "chosen": dict(chosen),
            "grid": tried,
            "num_configs": num_configs or len(grid),
            "selected_on": "val",
            "num_classes": 50,
            "num_train_images": 2000,
        },
        {"model": model} if model else {},
        {"method": method or axes["method"]},
    )


def model_zoo(
    *,
    num_models: int = 8,
    targets: Sequence[str] = TARGETS,
    methods: Sequence[str] = ("fixed", "full"),
    noise: float = 0.01,
    seeds: Sequence[int] = (0,),
    with_scores: bool = True,
) -> list[Result]:
    """Make results of published models (the recipe's `models`) whose transfer follows ImageNet accuracy.

    The transferability score knn predicts transfer; leep does not.
    """
    rng, results = random.Random(5), []
    for index in range(num_models):
        label, imagenet = f"torchvision/net{index}", 0.68 + 0.15 * index / max(1, num_models - 1)
        model = stage(
            "adopt",
            {"model": label},
            {"imagenet_top1": imagenet, "num_parameters": 1_000_000, "num_classes": 1000},
        )
        results.append(model)
        for place, target in enumerate(targets):
            base = imagenet - 0.03 * place
            for seed in seeds:
                for method in methods:
                    score = base + (0.06 if method == "full" else 0.0) + rng.gauss(0, noise)
                    results.append(
                        transfer(
                            model,
                            {"model": label, "seed": seed, "target": target, "method": method},
                            score,
                        )
                    )
            if with_scores:
                seen = stage("features", {"model": label, "target": target}, {}, {"model": model})
                results += [
                    seen,
                    stage(
                        "score",
                        {"model": label, "target": target},
                        {
                            "scores": {
                                "knn": base + rng.gauss(0, noise),
                                "leep": rng.gauss(-1, 0.3),
                            },
                            "failed": {},
                            "num_images": 1000,
                        },
                        {"features": seen},
                    ),
                ]
    return results


def amounts(
    *,
    effect: float = 0.02,
    seeds: Sequence[int] = (0, 1, 2),
    targets: Sequence[str] = ("pets", "cars", "sun397"),
    spread: float = 0.002,
) -> tuple[Recipe, list[Result]]:
    """Make results of subsets with fewer images of all classes, and with all images of fewer classes.

    Twice, one of each has the same number of images, as in Huh et al. 2016. `effect` is the gain from
    more classes.
    """
    subsets = {
        "all": (1000, 1_200_000),
        "per500": (1000, 500_000),
        "classes400": (400, 500_000),
        "per125": (1000, 125_000),
        "classes100": (100, 125_000),
        "per50": (1000, 50_000),
    }
    recipe = make_recipe(
        eps=(0.0,),
        seeds=seeds,
        targets=tuple(targets),
        methods=("full",),
        ranking=None,
        subsets=("all", *({"name": name, "per_class": 10} for name in subsets if name != "all")),
    )
    rng, results = random.Random(3), []
    for name, (num_classes, num_images) in subsets.items():
        for seed in seeds:
            axes = {"subset": name, "arch": "resnet18", "eps": 0.0, "seed": seed}
            model = stage(
                "pretrain", axes, {"num_classes": num_classes, "num_train_images": num_images}
            )
            results.append(model)
            score = 0.4 + 0.05 * (num_images / 1_200_000) ** 0.4 + effect * (num_classes == 1000)
            results += [
                transfer(
                    model,
                    {**axes, "target": target, "method": "full"},
                    score + rng.gauss(0, spread),
                )
                for target in targets
            ]
    return recipe, results


def curves(*, seeds: Sequence[int] = (0, 1), scratch_gap: float = -0.1) -> list[Result]:
    """Make results of transfer with few images per class or few steps (Kornblith et al. 2019).

    `scratch_gap` is the accuracy from random weights minus that after pretraining, at the smallest size.
    """
    results, rng = [], random.Random(8)
    axes = {"subset": "all", "arch": "resnet10", "eps": 0.0}
    for seed in seeds:
        model = stage(
            "pretrain", {**axes, "seed": seed}, {"num_classes": 24, "num_train_images": 4000}
        )
        results.append(model)
        for target in TARGETS[:4]:
            for axis, sizes in (("per_class", (5, 10, 20, 50)), ("steps", (100, 1000, 10_000))):
                for place, size in enumerate(sizes):
                    shown = {"target": target, axis: size, "seed": seed}
                    score = 0.5 + 0.08 * place + rng.gauss(0, 0.005)
                    results += [
                        transfer(
                            model, {**axes, **shown, "method": f"full_{axis}"}, score, method="full"
                        ),
                        transfer(
                            None,
                            {"arch": "resnet10", **shown, "method": f"scratch_{axis}"},
                            score + scratch_gap / (place + 1),
                            method="scratch",
                        ),
                    ]
    return results


def against_scratch(
    gap: float, *, seeds: Sequence[int] = (0, 1, 2), num_configs_scratch: int = 2
) -> list[Result]:
    """Make results of one model and two targets.

    `gap` is the accuracy of transfer minus the accuracy of training from random weights.
    """
    results, rng = [], random.Random(2)
    for seed in seeds:
        axes = {"subset": "all", "arch": "resnet10", "eps": 0.0, "seed": seed}
        model = stage("pretrain", axes, {"num_classes": 24, "num_train_images": 4000})
        results.append(model)
        for target in ("pets", "cars"):
            score = 0.6 + rng.gauss(0, 0.003)
            results += [
                transfer(model, {**axes, "target": target, "method": "full"}, score + gap),
                transfer(
                    None,
                    {"arch": "resnet10", "seed": seed, "target": target, "method": "scratch"},
                    score,
                    method="scratch",
                    num_configs=num_configs_scratch,
                ),
            ]
    return results


def grids(*, targets: Sequence[str] = TARGETS[:4], gain: float = 0.02) -> list[Result]:
    """Make results of a default method and of a search over reinitialized layers, rates and L2-SP's alpha.

    The search is that of Plested, Shen and Gedeon 2021.
    """
    axes = {"subset": "all", "arch": "resnet10", "eps": 0.0, "seed": 0}
    model = stage("pretrain", axes, {"num_classes": 24, "num_train_images": 4000})
    points = [
        {"lr": lr, "reinit_last": last, "alpha": alpha}
        for lr in (0.1, 0.01, 0.001)
        for last in (0, 1, 2, 3)
        for alpha in (0.0, 0.01, 0.1)
    ]

    def better(point: Mapping[str, Any]) -> float:
        return (
            -0.02 * abs(point["reinit_last"] - 1)
            - 0.1 * abs(point["alpha"] - 0.01)
            - 0.1 * abs(point["lr"] - 0.01)
        )

    results = [model]
    for place, target in enumerate(targets):
        base = 0.6 + 0.05 * place
        results += [
            transfer(model, {**axes, "target": target, "method": "default"}, base, method="full"),
            transfer(
                model,
                {**axes, "target": target, "method": "l2sp"},
                base + gain + 0.001 * place,
                grid=points,
                gain=better,
            ),
        ]
    return results


def induced(
    knn: Callable[[str, int], float],
    *,
    seeds: Sequence[int] = (0,),
    num_images: int = 2000,
    trained: bool = False,
) -> tuple[Recipe, list[Result]]:
    """Make results of coarser labels on the same images and of fewer images (Huh et al. 2016).

    kNN is also measured on the target `fine`; the recipe fine-tunes models on it only if `trained`.
    """
    subsets = {
        "all": (1000, 100_000),
        "coarse127": (127, 100_000),
        "coarse9": (9, 99_000),
        "fewer": (500, 50_000),
        "coarse918": (918, 100_000),
    }
    excluded = [] if trained else [{"target": "fine", "method": ["full"]}]
    recipe = make_recipe(
        eps=(0.0,),
        seeds=seeds,
        targets=("pets", "fine"),
        methods=("full",),
        ranking=None,
        exclude=excluded,
        scores=("knn", "leep"),
        subsets=("all", *({"name": name, "per_class": 10} for name in subsets if name != "all")),
    )
    results = []
    for name, (num_classes, num_source_images) in subsets.items():
        for seed in seeds:
            axes = {"subset": name, "arch": "resnet18", "eps": 0.0, "seed": seed}
            model = stage(
                "pretrain",
                axes,
                {"num_classes": num_classes, "num_train_images": num_source_images},
            )
            results.append(model)
            for target in ("pets", "fine"):
                seen = stage("features", {**axes, "target": target}, {}, {"model": model})
                found = {
                    "knn": knn(name, seed),
                    "knn_k5": knn(name, seed) + 0.01,
                    "leep": -num_classes / 1000,
                }
                results += [
                    seen,
                    stage(
                        "score",
                        {**axes, "target": target},
                        {
                            "scores": {**found, **({"leep": None} if target == "fine" else {})},
                            "failed": {},
                            "num_images": num_images,
                            "num_classes": 100,
                        },
                        {"features": seen},
                    ),
                ]
    return recipe, results


def recipe_for(targets: Iterable[str], methods: Iterable[str], **others: Any) -> Recipe:
    """Make a recipe without subsets to compare."""
    settings = TransferSettings(epochs=8, lrs=(0.1, 0.01))
    targets = tuple(DataSettings(path=f"{name}.tar", name=name, metric="top1") for name in targets)
    return make_recipe(eps=(0.0,), ranking=None, subsets=("all",)).model_copy(
        update={"targets": targets, "methods": dict.fromkeys(methods, settings), **others}
    )


def rows_of(
    results: list[Result], recipe: Recipe | None = None
) -> tuple[list[TransferRow], list[ScoreRow]]:
    """Return the rows of transfers and of scores.

    If `recipe` is None, they are those of a recipe with the targets, methods and models of `results`.
    """
    targets = dict.fromkeys(
        result.axes["target"] for result in results if result.kind == "transfer"
    )
    methods = dict.fromkeys(
        result.axes["method"] for result in results if result.kind == "transfer"
    )
    models = tuple(
        ModelSettings(name=result.axes["model"]) for result in results if result.kind == "adopt"
    )
    found = Collection(recipe or recipe_for(targets, methods, models=models), results)
    return transfer_rows(found), score_rows(found)


def analyzed(
    results: list[Result], predictions: dict[str, Path] | None = None
) -> tuple[Analysis, list[TransferRow]]:
    """Return the statistics of the results, and the rows of transfers.

    `predictions`: stage key -> file of predictions; None means no files.
    """
    transfer, scores = rows_of(results)
    return analyze([], transfer, scores, predictions or {}), transfer
