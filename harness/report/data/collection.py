"""Sort the results of one recipe by kind and in the recipe's order, and find the model of each.

A loaded model is one of the recipe's `models`, which the recipe does not train.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from statistics import median_low
from typing import Any, NamedTuple

from harness.config.axes import AxisSelection
from harness.config.recipe import Recipe
from harness.config.selection import InfluenceSettings
from harness.matrix import stage_kind
from harness.matrix.expand import expand
from harness.report.data.records import SourceAccuracyRow
from harness.report.data.repeats import Repeat, repeated_betons, repeated_models
from harness.runner.result import Result


class PlannedModel(NamedTuple):
    """A model that the recipe trains, with any seed."""

    arch: str
    subset: str
    variant: str
    eps: float


class Collection:
    """Results of a recipe without duplicates.

    The order is the recipe's and does not depend on when the stages finished.
    """

    def __init__(self, recipe: Recipe, results: Iterable[Result]) -> None:
        """Sort the results; of results with the same key, the last one is kept."""
        self.recipe = recipe
        self.by_key = {result.key: result for result in results}
        self._positions = _positions(recipe)
        self._by_kind: dict[str, list[Result]] = {}
        for result in sorted(self.by_key.values(), key=self._sort_key):
            self._by_kind.setdefault(result.kind, []).append(result)

    def __iter__(self) -> Iterator[Result]:
        """Iterate over all results in the order they were passed."""
        return iter(self.by_key.values())

    @cached_property
    def kinds(self) -> list[str]:
        """Kinds of stages that have results, roughly in the order in which a recipe runs them.

        A stage comes after the longest chain of stages that it needs. Kinds are sorted by the
        median length of this chain over their stages.
        """
        num_before: dict[str, int] = {}  # key -> stages on the longest chain of needs

        def count(result: Result) -> int:
            if result.key not in num_before:
                needs = (self.by_key[key] for key in result.needs.values() if key in self.by_key)
                num_before[result.key] = max((1 + count(need) for need in needs), default=0)
            return num_before[result.key]

        place = {kind: median_low(map(count, results)) for kind, results in self._by_kind.items()}
        return sorted(place, key=lambda kind: (place[kind], kind))

    def of(self, kind: str) -> list[Result]:
        """Results of one kind of stage, in the recipe's order."""
        return self._by_kind.get(kind, [])

    def distinct(self, kind: str) -> list[Result]:
        """Results of one kind of stage, except of models that repeat an earlier model."""
        if not self.repeated_models:
            return self.of(kind)
        repeated = {repeat.result.key for repeat in self.repeated_models}
        return [
            result
            for result in self.of(kind)
            if (model := self.model(result)) is None or model.key not in repeated
        ]

    @cached_property
    def pretrained(self) -> list[Result]:
        """Results of pretraining, without models that are trained only to score classes."""
        return [result for result in self.of("pretrain") if "role" not in result.axes]

    @cached_property
    def repeated_models(self) -> list[Repeat]:
        """Models that equal an earlier model, although the keys (hashes) of their stages differ."""
        betons = {result.key: result for result in self.of("write")}
        return repeated_models(self.pretrained, betons)

    @cached_property
    def repeated_betons(self) -> list[Repeat]:
        """Subsets of the source whose files equal those of an earlier subset with another key."""
        label = self.recipe.source.label if self.recipe.source else None
        return repeated_betons(
            result for result in self.of("write") if result.axes.get("dataset") == label
        )

    @cached_property
    def transfers(self) -> list[Result]:
        """Transfers, except of repeated models and of models that only serve to score classes."""
        return [result for result in self.distinct("transfer") if "role" not in result.axes]

    @cached_property
    def evaluations(self) -> list[Result]:
        """Evaluations of the models that the recipe trains, except of repeated models."""
        return [result for result in self.distinct("evaluate") if "model" not in result.axes]

    @cached_property
    def measured(self) -> dict[str, Result]:
        """Key of a loaded model -> its evaluation on the source dataset.

        If the recipe names the same weights twice, with different crops or resolutions, this is
        the evaluation of the first entry.
        """
        return {
            result.needs.get("model", ""): result
            for result in reversed(self.of("evaluate"))
            if "model" in result.axes
        }

    @cached_property
    def planned(self) -> frozenset[PlannedModel]:
        """Every model that the recipe evaluates, finished or not.

        Models with equal settings count as one model, with the axes of the first. Models in
        `repeated_models` are left out: each equals an earlier model although their settings differ.
        """
        repeated = {_planned_model(repeat.result.axes) for repeat in self.repeated_models}
        return self._planned - repeated

    @cached_property
    def _planned(self) -> frozenset[PlannedModel]:
        if self.recipe.source is None:
            return frozenset()
        # Plan few of the models that only score classes: they are not evaluated, and there may be
        # hundreds.
        few = self.recipe.selection.model_copy(
            update={"influence": InfluenceSettings(num_models=4)}
        )
        of_models = self.recipe.model_copy(
            update={"methods": {}, "scores": (), "models": (), "selection": few}
        )
        return frozenset(
            _planned_model(stage.axes)
            for stage in expand(of_models).stages
            if stage.kind == "evaluate"
        )

    def same_variants(self, result: Result) -> tuple[str, ...]:
        """Other variants (settings of pretraining) that give the same model as that of `result`.

        Example: on all classes, equal steps and equal epochs are the same training.
        """
        if not result.axes.get("variant"):
            return ()
        place = _planned_model(result.axes)
        return (*self._merged.get(place, ()), *self._repeated_variants.get(place, ()))

    @cached_property
    def _repeated_variants(self) -> dict[PlannedModel, tuple[str, ...]]:
        """Model -> variants of it in `repeated_models`."""
        variants: dict[PlannedModel, tuple[str, ...]] = {}
        for repeat in self.repeated_models:
            place, first = (_planned_model(one.axes) for one in (repeat.result, repeat.first))
            others = variants.get(first, ())
            if place._replace(variant=first.variant) == first and place.variant not in others:
                variants[first] = (*others, place.variant)
        return variants

    @cached_property
    def _merged(self) -> dict[PlannedModel, tuple[str, ...]]:
        """Planned model -> other variants that have equal settings and thus the same stage."""
        variants = self.recipe.variants
        merged: dict[PlannedModel, tuple[str, ...]] = {}
        points = AxisSelection(self.recipe).models() if variants else ()
        for place in dict.fromkeys(map(_planned_model, points)):
            if place not in self._planned:
                without_effect = {"length": None} | ({} if place.eps else {"attack": None})
                settings = variants[place.variant].model_copy(update=without_effect)
                for first in (place._replace(variant=other) for other in variants):
                    if (
                        first in self._planned
                        and variants[first.variant].model_copy(update=without_effect) == settings
                    ):
                        merged[first] = (*merged.get(first, ()), place.variant)
        return merged

    def model(self, result: Result) -> Result | None:
        """The result of the stage that trained or loaded the model that `result` uses.

        Returns None if `result` uses no model, or if that result is not in the collection.
        """
        needs = result.needs
        if "model" not in needs:
            # A method on features needs one features stage, or one per crop: features_0.875, ...
            features = (key for role, key in needs.items() if role.split("_")[0] == "features")
            needs = next((self.by_key[key].needs for key in features if key in self.by_key), {})
        model = self.by_key.get(needs.get("model", ""))
        return model if model is not None and stage_kind.find(model.kind).makes_model else None

    def network(self, result: Result) -> str:
        """Architecture of a transferred model, without its library, weights and tag.

        `torchvision/resnet50@IMAGENET1K_V1` and `timm/resnet50.a1_in1k` both give `resnet50`.
        """
        model = self.model(result)
        adopted = model.metrics.get("arch") if model is not None and model.kind == "adopt" else None
        name = str(adopted or result.axes.get("arch") or result.axes.get("model", ""))
        return name.rpartition("/")[2].partition("@")[0].partition(".")[0]

    def training(self, result: Result) -> str:
        """Kind of training of a loaded model, as stated by the recipe or by its weights.

        It is "" if unknown, for models that the recipe trains, and for random weights.
        """
        model = self.model(result)
        if model is None or model.kind != "adopt":
            return ""
        stated = self._stated_training.get(model.axes.get("model", ""))
        return stated or model.metrics.get("training") or ""

    @cached_property
    def _stated_training(self) -> dict[str, str]:
        return {model.name: model.training for model in self.recipe.models if model.training}

    def source_accuracy(self, model: Result) -> float | None:
        """Top-1 on source classes that all models share; None if unknown.

        For loaded models it is the accuracy measured on the source dataset, or else their published
        ImageNet accuracy. For trained models it is the accuracy on the common classes.
        """
        measured = self._measured_accuracy(model)
        published: float | None = model.metrics.get("imagenet_top1")
        return published if measured is None and model.kind == "adopt" else measured

    def source_accuracy_from(self, model: Result) -> str:
        """Return `measured` or `published`, the origin of `source_accuracy`; "" if it is None."""
        if self.source_accuracy(model) is None:
            return ""
        return "published" if self._measured_accuracy(model) is None else "measured"

    def _measured_accuracy(self, model: Result) -> float | None:
        if model.kind != "adopt":
            return self._common_top1.get(model.key)
        evaluation = self.measured.get(model.key)
        scores = _clean_scores(evaluation, "own") if evaluation is not None else {}
        top1: float | None = scores.get("top1")
        return top1

    def source_accuracies(self) -> list[SourceAccuracyRow]:
        """Published and measured accuracy of every loaded model that the recipe evaluates."""
        rows = []
        for model in self.of("adopt"):
            if (evaluation := self.measured.get(model.key)) is None:
                continue
            metrics, scores = evaluation.metrics, _clean_scores(evaluation, "own")
            rows.append(
                SourceAccuracyRow(
                    model=model.axes.get("model", ""),
                    published=model.metrics.get("imagenet_top1"),
                    measured=scores.get("top1"),
                    num_images=scores.get("num_images"),
                    resolution=metrics.get("resolution"),
                    eval_crop=metrics.get("eval_crop"),
                    not_measured=metrics.get("not_measured", ""),
                    key=evaluation.key,
                )
            )
        return rows

    @cached_property
    def _common_top1(self) -> dict[str, float]:
        """Key of a model -> clean top-1 on the common classes, predictions restricted to them."""
        top1 = {}
        for result in self.evaluations:
            if scores := _clean_scores(result, "common_masked"):
                top1[result.needs.get("model", "")] = scores["top1"]
        return top1

    @cached_property
    def kept_classes(self) -> dict[str, tuple[str, ...]]:
        """Subset of the source dataset -> its class names. Subsets not yet written are left out."""
        if self.recipe.source is None:
            return {}
        written = {result.key: result for result in (*self.of("write"), *self.of("view"))}
        by_subset = {
            result.axes.get("subset"): tuple(result.metrics["classes"])
            for result in written.values()
            if result.axes.get("dataset") == self.recipe.source.label and "role" not in result.axes
        }
        # Equal subsets share one write stage, which has the name of only one subset.
        for model in self.pretrained:
            if model.needs.get("data") in written:
                by_subset[model.axes["subset"]] = tuple(
                    written[model.needs["data"]].metrics["classes"]
                )
        return {
            subset.name: by_subset[subset.name]
            for subset in self.recipe.subsets
            if subset.name in by_subset
        }

    def _sort_key(self, result: Result) -> tuple[Any, ...]:
        axes = result.axes
        positions = [
            names.get(axes.get(axis), len(names)) for axis, names in self._positions.items()
        ]
        sizes = [axes.get(axis) or math.inf for axis in ("per_class", "steps")]
        return (
            *positions,
            axes.get("eps") or 0.0,
            *sizes,
            axes.get("seed") or 0,
            result.name,
            result.key,
        )


def _planned_model(axes: Mapping[str, Any]) -> PlannedModel:
    return PlannedModel(
        axes.get("arch", ""),
        axes.get("subset", ""),
        axes.get("variant", ""),
        axes.get("eps") or 0.0,
    )


def _clean_scores(evaluation: Result, view: str) -> Mapping[str, Any]:
    """Scores of a view without attack; empty if it was not evaluated."""
    scores: Mapping[str, Any] = (evaluation.metrics.get("clean") or {}).get(view, {})
    return scores


def _positions(recipe: Recipe) -> dict[str, dict[Any, int]]:
    """Axis -> value -> position in the recipe."""
    orders: dict[str, Sequence[Any]] = {
        "model": [model.name for model in recipe.models],
        "arch": recipe.archs,
        "target": [target.label for target in recipe.targets],
        "method": list(recipe.methods),
        "subset": [subset.name for subset in recipe.subsets],
        "variant": list(recipe.variants),
    }
    return {
        axis: {name: index for index, name in enumerate(names)} for axis, names in orders.items()
    }
