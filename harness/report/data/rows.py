"""Results to rows: one flat record per measured thing, in the recipe's order. What is not there makes no row.

Every table, figure and CSV file about models is made from these rows (`run_rows` has those about the runs). Accuracies are
fractions.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from harness.report.data.collection import Collection
from harness.runner.result import Result

VIEWS = ("common_unmasked", "common_masked", "own")
ATTACKS = ("clean", "adversarial")


Source = tuple[
    str, str, str, str, float
]  # model, arch, subset, variant, eps: a model apart from its seed


def shown_eps(eps: float) -> str:
    """`0.5`; `8/255` for what is counted in (half) levels of 255 and would be longer as a decimal: radii of Linf."""
    levels = round(2 * 255 * eps) / 2
    decimal, fraction = f"{eps:g}", f"{levels:g}/255"
    return fraction if len(fraction) < len(decimal) and abs(255 * eps - levels) < 1e-3 else decimal


@dataclass(frozen=True)
class AccuracyRow:
    """One model on one set of source classes, clean or attacked."""

    arch: str
    subset: str
    num_classes: int | None  # the model's own; None where its training is not among the results
    eps: float  # of training, and of the attack unless attack_eps differs
    seed: int
    view: str  # one of VIEWS
    attack: str  # one of ATTACKS
    attack_eps: float | None
    num_answers: int | None  # classes that may be answered: 1 / num_answers is chance
    num_images: int
    top1: float
    top5: float
    mean_per_class: float
    key: str
    variant: str = ""
    model: str = ""
    same_variants: tuple[str, ...] = ()  # others of the recipe that are this very model


@dataclass(frozen=True)
class TransferRow:
    """One model carried over to one target by one method; scores are on the test split."""

    arch: str
    target: str
    method: str
    subset: str
    num_classes: int | None  # of the source subset
    eps: float
    seed: int
    metric: str  # the target's own: top1, mean_per_class or map11
    num_answers: (
        int | None
    )  # classes of the target: 1 / num_answers is chance; None where an image has many labels
    num_images: int
    top1: float
    top5: float
    mean_per_class: float | None  # None where an image has many labels
    lr: float | None  # None: the method has none
    num_configs: int
    num_diverged: int  # of these, how many gave no number
    selected_on: str
    selected_score: float  # the target's metric on the split that chose
    key: str
    map11: float | None = None  # of many labels an image
    variant: str = ""  # of pretraining
    model: str = ""  # of a model that was adopted, in place of arch, subset, variant and eps
    kind: str = ""  # the method by its file, where `method` is a name that the recipe gave
    per_class: int | None = None  # training images of each class of the target; None: all
    steps: int | None = None  # None: as many as the method's epochs make
    num_source_images: int | None = None
    source_accuracy: float | None = None  # top-1 on the source classes that all models share
    chosen: Mapping[str, Any] = field(default_factory=dict)  # of every axis of the grid
    same_variants: tuple[str, ...] = ()

    @property
    def source(self) -> Source:
        return self.model, self.arch, self.subset, self.variant, self.eps

    @property
    def size(self) -> tuple[float, float]:
        """How much the target gave: images a class and steps; everything is more than any number."""
        return self.per_class or math.inf, self.steps or math.inf

    @property
    def score(self) -> float:
        """The target's own metric."""
        score = {"top1": self.top1, "mean_per_class": self.mean_per_class, "map11": self.map11}[
            self.metric
        ]
        assert score is not None
        return score

    @property
    def logit(self) -> float:
        """Of the score; `stats.logit` for one number, without its cost."""
        margin = 0.5 / self.num_images
        share = min(max(self.score, margin), 1 - margin)
        return math.log(share / (1 - share))


@dataclass(frozen=True)
class GridRow:
    """One configuration that was tried on the way to a TransferRow."""

    arch: str
    target: str
    method: str
    subset: str
    eps: float
    seed: int
    lr: float | None
    val_top1: float | None  # None: it diverged
    val_mean_per_class: float | None
    chosen: bool
    val_map11: float | None = None
    val_score: float | None = None  # by the target's own metric
    variant: str = ""
    model: str = ""
    per_class: int | None = None
    steps: int | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)  # axis of the grid -> value
    key: str = ""
    same_variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreRow:
    """One cheap score of one model for one target; higher is better."""

    arch: str
    target: str
    name: str
    value: float
    subset: str
    eps: float
    seed: int
    num_images: int | None
    source_accuracy: float | None
    key: str
    variant: str = ""
    model: str = ""
    same_variants: tuple[str, ...] = ()
    num_classes: int | None = None  # of the source subset
    num_source_images: int | None = None
    num_answers: int | None = None  # classes of the target

    @property
    def source(self) -> Source:
        return self.model, self.arch, self.subset, self.variant, self.eps


Row = TypeVar("Row", AccuracyRow, TransferRow, ScoreRow)


@dataclass(frozen=True)
class ClassRow:
    """One source class; `rank` counts from 1, hardest first. None where no ranking was made here."""

    rank: int | None
    name: str
    accuracy: float | None
    num_images: int | None
    removed_by: tuple[str, ...]  # names of the subsets without it, in the recipe's order


def accuracy_rows(found: Collection) -> list[AccuracyRow]:
    rows = []
    for result in found.of("evaluate"):
        num_classes = _of_model(found, result)["num_classes"]
        num_common = result.metrics["num_common_classes"]
        for attack in ATTACKS:
            scores_by_view = result.metrics.get(attack) or {}
            attack_eps = (
                (result.metrics.get("attack") or {}).get("eps") if attack == "adversarial" else None
            )
            for view in VIEWS:
                if scores := scores_by_view.get(view):
                    num_answers = num_common if view == "common_masked" else num_classes
                    rows.append(
                        AccuracyRow(
                            **model_axes(found, result),
                            num_classes=num_classes,
                            view=view,
                            attack=attack,
                            attack_eps=attack_eps,
                            num_answers=num_answers,
                            key=result.key,
                            **{
                                name: scores[name]
                                for name in ("num_images", "top1", "top5", "mean_per_class")
                            },
                        )
                    )
    return rows


def transfer_rows(found: Collection) -> list[TransferRow]:
    rows = []
    for result in found.of("transfer"):
        metrics = result.metrics
        rows.append(
            TransferRow(
                **model_axes(found, result),
                **_of_model(found, result),
                target=result.axes["target"],
                method=result.axes["method"],
                kind=result.config.get("method") or result.axes["method"],
                metric=metrics["metric"],
                num_answers=None if metrics["metric"] == "map11" else metrics.get("num_classes"),
                lr=metrics.get("lr"),
                per_class=result.axes.get("per_class"),
                steps=result.axes.get("steps"),
                chosen=_chosen(metrics),
                **{
                    name: metrics["test"].get(name)
                    for name in ("num_images", "top1", "top5", "mean_per_class", "map11")
                },
                num_configs=metrics["num_configs"],
                num_diverged=sum(tried["val"] is None for tried in metrics["grid"]),
                selected_on=metrics["selected_on"],
                selected_score=metrics["val"][metrics["metric"]],
                key=result.key,
            )
        )
    return rows


def grid_rows(found: Collection) -> list[GridRow]:
    rows = []
    for result in found.of("transfer"):
        chosen = _chosen(result.metrics)
        for tried in result.metrics["grid"]:
            setting = {axis: value for axis, value in tried.items() if axis not in ("val", "share")}
            val = tried["val"] or {}
            rows.append(
                GridRow(
                    **model_axes(found, result),
                    target=result.axes["target"],
                    method=result.axes["method"],
                    lr=setting.get("lr"),
                    per_class=result.axes.get("per_class"),
                    steps=result.axes.get("steps"),
                    setting=setting,
                    val_top1=val.get("top1"),
                    val_mean_per_class=val.get("mean_per_class"),
                    val_map11=val.get("map11"),
                    val_score=val.get(result.metrics["metric"]),
                    key=result.key,
                    chosen=setting == {axis: chosen.get(axis) for axis in setting},
                )
            )
    return rows


def score_rows(found: Collection) -> list[ScoreRow]:
    return [
        ScoreRow(
            **model_axes(found, result),
            **_of_model(found, result),
            target=result.axes["target"],
            name=name,
            value=value,
            num_images=result.metrics.get("num_images"),
            num_answers=result.metrics.get("num_classes"),
            key=result.key,
        )
        for result in found.of("score")
        for name, value in result.metrics["scores"].items()
        if value is not None
    ]


def class_rows(found: Collection) -> list[ClassRow]:
    """Every source class that is known, hardest first where a ranking was made, else in label order."""
    ranking = next(iter(found.of("rank")), None)
    ranked, accuracy, num_images = (
        ranking.metrics[name] if ranking else {} for name in ("classes", "accuracy", "num_images")
    )
    names = dict.fromkeys(
        [*ranked, *(name for classes in found.kept_classes.values() for name in classes)]
    )
    kept_sets = {subset: frozenset(classes) for subset, classes in found.kept_classes.items()}
    return [
        ClassRow(
            rank=place if name in accuracy else None,
            name=name,
            accuracy=accuracy.get(name),
            num_images=num_images.get(name),
            removed_by=tuple(
                subset for subset, classes in kept_sets.items() if name not in classes
            ),
        )
        for place, name in enumerate(names, start=1)
    ]


def at_full_size(rows: Iterable[TransferRow]) -> list[TransferRow]:
    """Of each method the rows with the most images a class and the most steps: what curves end in, and all else speaks of."""
    rows = list(rows)
    largest: dict[tuple[str, str], tuple[float, float]] = {}
    for row in rows:
        place = row.method, row.target
        largest[place] = max(largest.get(place, (0, 0)), row.size)
    return [row for row in rows if row.size == largest[row.method, row.target]]


def under_every_variant(rows: Iterable[Row]) -> list[Row]:
    """The rows, and each once more under every other variant that its model stands for: what variants are compared within."""
    found: list[Row] = []
    for row in rows:
        found.append(row)
        found += [replace(row, variant=variant, same_variants=()) for variant in row.same_variants]
    return found


def model_axes(found: Collection, result: Result) -> dict[str, Any]:
    """What tells a model from the others. Adopted ones have a name and none of the axes of training."""
    axes = result.axes
    return {
        "arch": axes.get("arch", ""),
        "subset": axes.get("subset", ""),
        "variant": axes.get("variant", ""),
        "model": axes.get("model", ""),
        "eps": axes.get("eps") or 0.0,
        "seed": axes.get("seed") or 0,
        "same_variants": found.same_variants(result),
    }


def _of_model(found: Collection, result: Result) -> dict[str, Any]:
    model = found.model(result)
    if model is None:
        return {"num_classes": None, "num_source_images": None, "source_accuracy": None}
    return {
        "num_classes": model.metrics.get("num_classes"),
        "num_source_images": model.metrics.get("num_train_images"),
        "source_accuracy": found.source_accuracy(model),
    }


def _chosen(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Axis of the grid -> the value that val chose."""
    return dict(metrics.get("chosen") or {"lr": metrics["lr"]})
