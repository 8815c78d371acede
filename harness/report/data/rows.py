"""Turn results into records about models, in the recipe's order. A missing result has no record."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from harness.report.data.collection import Collection
from harness.report.data.compact import num_diverged
from harness.report.data.records import (
    AccuracyRow,
    ClassRow,
    CoarseRow,
    ScoreRow,
    TransferRow,
)
from harness.runner.result import Result

# Sets of classes that are evaluated: the classes that all subsets share, with and without logits of
# other classes, and the model's own classes.
COMMON_VIEWS = ("common_unmasked", "common_masked")
VIEWS = (*COMMON_VIEWS, "own")
ATTACKS = ("clean", "adversarial")  # clean: no attack


class ModelAxes(TypedDict):
    """Values that identify a model that the recipe trains, or one of its `models`.

    `same_variants` names the other variants of the recipe that give this same model.
    """

    arch: str
    subset: str
    variant: str
    model: str
    eps: float
    seed: int
    same_variants: tuple[str, ...]


class SourceFacts(TypedDict):
    """Facts about the pretraining of a model. None, or "" for a string, means unknown."""

    num_classes: int | None
    num_source_images: int | None
    source_accuracy: float | None
    source_accuracy_from: str
    num_parameters: int | None


def accuracy_rows(results: Collection) -> list[AccuracyRow]:
    """Return the accuracies of all evaluations, for each attack and view."""
    rows = []
    for result in results.evaluations:
        num_classes = _source_facts(results, result)["num_classes"]
        num_common = result.metrics["num_common_classes"]
        for attack in ATTACKS:
            scores_by_view = result.metrics.get(attack) or {}
            about = (result.metrics.get("attack") or {}) if attack == "adversarial" else {}
            for view in VIEWS:
                if scores := scores_by_view.get(view):
                    rows.append(
                        AccuracyRow(
                            **model_axes(results, result),
                            num_classes=num_classes,
                            view=view,
                            attack=attack,
                            attack_eps=about.get("eps"),
                            attacked_logits=about.get("logits", "all") if about else "",
                            num_answers=num_common if view == "common_masked" else num_classes,
                            num_images=scores["num_images"],
                            top1=scores["top1"],
                            top5=scores["top5"],
                            mean_per_class=scores["mean_per_class"],
                            key=result.key,
                        )
                    )
    return rows


def views_are_equal(rows: Sequence[AccuracyRow], views: Sequence[str] = VIEWS) -> bool:
    """Return True if these views of every model have equal accuracies of equal classes."""
    measured: dict[str, set[tuple[object, ...]]] = {view: set() for view in views}
    for row in (row for row in rows if row.view in views):
        place = (row.arch, row.subset, row.variant, row.eps, row.seed, row.attack, row.attack_eps)
        values = (row.num_answers, row.num_images, row.top1, row.top5)
        measured[row.view].add((*place, *values))
    return len(set(map(frozenset, measured.values()))) == 1


def coarse_rows(results: Collection) -> list[CoarseRow]:
    """Return the accuracies on coarser labels (Huh et al. 2016) of all evaluations that have them.

    The validation images of a subset with coarser labels are classified by the subset's own model
    and by every model with finer classes. A model with finer classes predicts the coarse class with
    the highest summed probability (`sum`), or the coarse class of its most likely fine class
    (`max`).
    """
    return [
        CoarseRow(
            **model_axes(results, result),
            num_classes=_source_facts(results, result)["num_classes"],
            labels=labels,
            num_labels=evaluated["num_labels"],
            by=by,
            attack=attack,
            num_images=scores["num_images"],
            top1=scores["top1"],
            mean_per_class=scores["mean_per_class"],
            key=result.key,
        )
        for result in results.evaluations
        for labels, evaluated in (result.metrics.get("coarse") or {}).items()
        for attack in ATTACKS
        for by, scores in (evaluated.get(attack) or {}).items()
    ]


def transfer_rows(results: Collection) -> list[TransferRow]:
    """Return the test scores of all transfers."""
    rows = []
    for result in results.transfers:
        metrics, test = result.metrics, result.metrics["test"]
        rows.append(
            TransferRow(
                **model_axes(results, result),
                **_source_facts(results, result),
                target=result.axes["target"],
                method=result.axes["method"],
                kind=result.config.get("method") or result.axes["method"],
                metric=metrics["metric"],
                num_answers=None
                if metrics["metric"] in ("map11", "map50_11")
                else metrics.get("num_classes"),
                num_images=test["num_images"],
                top1=test.get("top1"),
                top5=test.get("top5"),
                mean_per_class=test.get("mean_per_class"),
                map11=test.get("map11"),
                map50_11=test.get("map50_11"),
                map50=test.get("map50"),
                lr=metrics.get("lr"),
                per_class=result.axes.get("per_class"),
                steps=result.axes.get("steps"),
                chosen=chosen_setting(metrics),
                network=results.network(result),
                training=results.training(result),
                num_configs=metrics["num_configs"],
                num_diverged=num_diverged(metrics["grid"]),
                selected_on=metrics["selected_on"],
                selected_score=metrics["val"][metrics["metric"]],
                key=result.key,
            )
        )
    return rows


def score_rows(results: Collection) -> list[ScoreRow]:
    """Return the transferability scores of all models; scores without a value have no row."""
    rows = []
    for result in results.distinct("score"):
        axes, facts = model_axes(results, result), _source_facts(results, result)
        rows += [
            ScoreRow(
                **axes,
                **facts,
                target=result.axes["target"],
                name=name,
                value=value,
                num_images=result.metrics.get("num_images"),
                num_answers=result.metrics.get("num_classes"),
                key=result.key,
            )
            for name, value in result.metrics["scores"].items()
            if value is not None
        ]
    return rows


def class_rows(results: Collection) -> list[ClassRow]:
    """Return every known source class, hardest first, or in label order if there is no ranking."""
    ranking = next(iter(results.of("rank")), None)
    ranked, accuracy, num_images = (
        ranking.metrics[name] if ranking else {} for name in ("classes", "accuracy", "num_images")
    )
    kept_sets = {subset: frozenset(classes) for subset, classes in results.kept_classes.items()}
    names = dict.fromkeys(
        [*ranked, *(name for classes in results.kept_classes.values() for name in classes)]
    )
    return [
        ClassRow(
            rank=rank if name in accuracy else None,
            name=name,
            accuracy=accuracy.get(name),
            num_images=num_images.get(name),
            removed_by=tuple(
                subset for subset, classes in kept_sets.items() if name not in classes
            ),
        )
        for rank, name in enumerate(names, start=1)
    ]


def model_axes(results: Collection, result: Result) -> ModelAxes:
    """Return the values that identify the model of a result."""
    axes = result.axes
    return {
        "arch": axes.get("arch", ""),
        "subset": axes.get("subset", ""),
        "variant": axes.get("variant", ""),
        "model": axes.get("model", ""),
        "eps": axes.get("eps") or 0.0,
        "seed": axes.get("seed") or 0,
        "same_variants": results.same_variants(result),
    }


def _source_facts(results: Collection, result: Result) -> SourceFacts:
    model = results.model(result)
    if model is None:
        return {
            "num_classes": None,
            "num_source_images": None,
            "source_accuracy": None,
            "source_accuracy_from": "",
            "num_parameters": None,
        }
    return {
        "num_classes": model.metrics.get("num_classes"),
        "num_source_images": model.metrics.get("num_train_images"),
        "source_accuracy": results.source_accuracy(model),
        "source_accuracy_from": results.source_accuracy_from(model),
        "num_parameters": model.metrics.get("num_parameters"),
    }


def chosen_setting(metrics: Mapping[str, Any]) -> dict[str, object]:
    """Map each grid axis of a transfer to its selected value.

    Older results have the learning rate only.
    """
    return dict(metrics.get("chosen") or {"lr": metrics["lr"]})
