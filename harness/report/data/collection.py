"""The results of one recipe as a report walks through them: by kind in the recipe's order, and the model behind each."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from harness.config.axes import Points
from harness.config.recipe import Recipe
from harness.matrix.expand import expand
from harness.runner.result import Result

Planned = tuple[str, str, str, float]  # arch, subset, variant and eps of a model to come
_MODEL_KINDS = ("pretrain", "adopt")


class Collection:
    """Results of a recipe, each once. Whatever the order in which stages finished, the order here is the recipe's."""

    def __init__(self, recipe: Recipe, results: Iterable[Result]) -> None:
        self.recipe = recipe
        self.by_key = {result.key: result for result in results}
        self._places = _places(recipe)
        self._by_kind: dict[str, list[Result]] = {}
        for result in sorted(self.by_key.values(), key=self._order):
            self._by_kind.setdefault(result.kind, []).append(result)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.by_key.values())

    @property
    def kinds(self) -> list[str]:
        return list(self._by_kind)

    def of(self, kind: str) -> list[Result]:
        return self._by_kind.get(kind, [])

    @cached_property
    def planned(self) -> frozenset[Planned]:
        """Every model that the recipe evaluates, done or not; equal ones are one, by the axes of the first."""
        if self.recipe.source is None:
            return frozenset()
        of_models = self.recipe.model_copy(
            update={"targets": (), "methods": {}, "scores": (), "models": ()}
        )
        return frozenset(
            _place(stage.axes) for stage in expand(of_models).stages if stage.kind == "evaluate"
        )

    def same_variants(self, result: Result) -> tuple[str, ...]:
        """Other variants of the recipe that are this very model: with all classes, equal steps are equal epochs."""
        return self._merged.get(_place(result.axes), ()) if result.axes.get("variant") else ()

    @cached_property
    def _merged(self) -> dict[Planned, tuple[str, ...]]:
        variants = self.recipe.variants
        found: dict[Planned, tuple[str, ...]] = {}
        for place in dict.fromkeys(map(_place, Points(self.recipe).models() if variants else ())):
            if place not in self.planned:
                arch, subset, variant, eps = place
                without_effect = {"length": None} | ({} if eps else {"attack": None})
                settings = variants[variant].model_copy(update=without_effect)
                for first in ((arch, subset, other, eps) for other in variants):
                    if (
                        first in self.planned
                        and variants[first[2]].model_copy(update=without_effect) == settings
                    ):
                        found[first] = (*found.get(first, ()), variant)
        return found

    def model(self, result: Result) -> Result | None:
        """The stage that left the model which `result` is about; None where it is not among the results."""
        needs = result.needs
        if "model" not in needs and needs.get("features") in self.by_key:
            needs = self.by_key[needs["features"]].needs
        found = self.by_key.get(needs.get("model", ""))
        return found if found is not None and found.kind in _MODEL_KINDS else None

    def source_accuracy(self, model: Result) -> float | None:
        """Top-1 on the source classes, alike for all models: as published for adopted ones, else among the common classes."""
        if model.kind == "adopt":
            return model.metrics.get("imagenet_top1")
        return self._common_top1.get(model.key)

    @cached_property
    def _common_top1(self) -> dict[str, float]:
        """Key of a model -> clean top-1 among the common classes."""
        found = {}
        for result in self.of("evaluate"):
            if scores := (result.metrics.get("clean") or {}).get("common_masked"):
                found[result.needs.get("model", "")] = scores["top1"]
        return found

    @cached_property
    def kept_classes(self) -> dict[str, tuple[str, ...]]:
        """Class names of each source subset that has been written, in the recipe's order of subsets."""
        if self.recipe.source is None:
            return {}
        written = {result.key: result for result in self.of("write")}
        by_subset = {
            result.axes.get("subset"): tuple(result.metrics["classes"])
            for result in written.values()
            if result.axes.get("dataset") == self.recipe.source.label
        }
        for model in self.of(
            "pretrain"
        ):  # a subset equal to another one shares its write stage, which bears the other's name
            if "role" not in model.axes and model.needs.get("data") in written:
                by_subset[model.axes["subset"]] = tuple(
                    written[model.needs["data"]].metrics["classes"]
                )
        return {
            subset.name: by_subset[subset.name]
            for subset in self.recipe.subsets
            if subset.name in by_subset
        }

    def _order(self, result: Result) -> tuple[Any, ...]:
        axes = result.axes
        place = [names.get(axes.get(axis), len(names)) for axis, names in self._places.items()]
        sizes = [axes.get(axis) or math.inf for axis in ("per_class", "steps")]
        return (
            *place,
            axes.get("eps") or 0.0,
            *sizes,
            axes.get("seed") or 0,
            result.name,
            result.key,
        )


def _place(axes: Mapping[str, Any]) -> Planned:
    return (
        axes.get("arch", ""),
        axes.get("subset", ""),
        axes.get("variant", ""),
        axes.get("eps") or 0.0,
    )


def _places(recipe: Recipe) -> dict[str, dict[Any, int]]:
    """Axis -> value -> its place in the recipe."""
    orders: dict[str, Sequence[Any]] = {
        "model": [model.name for model in recipe.models],
        "arch": recipe.archs,
        "target": [target.label for target in recipe.targets],
        "method": list(recipe.methods),
        "subset": [subset.name for subset in recipe.subsets],
        "variant": list(recipe.variants),
    }
    return {
        axis: {name: place for place, name in enumerate(names)} for axis, names in orders.items()
    }
