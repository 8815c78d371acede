"""Expand a recipe into its stages.

    write -> (reference models -> rank) -> pretrain -> evaluate, transfer, features -> score

Reference models are pretrain stages. Some recipes also need stages of other kinds: view and select,
for subsets (`selections.py`), and adopt and shortlist, for existing models
(`pretrained_models.py`).

`expand` is a pure function of the recipe and of the contents of its inputs. It uses neither the
disk nor torch. Stages with equal keys are merged. The config of a stage contains only settings that
have an effect on it. So a change in the recipe changes only stages that depend on it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.config.axes import AxisSelection
from harness.config.data import DataSettings
from harness.config.inputs import NO_CONTENTS, Contents
from harness.config.label_kinds import with_label_kinds
from harness.config.recipe import Recipe
from harness.config.train import PretrainSettings
from harness.matrix.features_and_scores import Scores
from harness.matrix.pretrained_models import stages_of_models
from harness.matrix.pretraining import (
    PretrainConfigs,
    encoding_of,
    rank,
    references,
    view_settings,
    write,
)
from harness.matrix.selections import Selections, subset_stage
from harness.matrix.stage import SharedConfig, Stage, specs_of
from harness.matrix.transfers import Transfers
from writers.dataset import spec_of
from writers.split_names import SPLITS
from writers.subset.class_steps import Granularity
from writers.subset.spec import SubsetSpec

JSON = dict[str, Any]
_SOURCE_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Matrix:
    """Stages of a recipe in dependency order, each once.

    Attributes:
        recipe: the recipe, after `with_label_kinds` has set metrics that fit the labels of
            `.beton` files.
        stages: stages of the recipe.
        contents: digests of the contents of the recipe's inputs, which are part of the keys.
    """

    recipe: Recipe
    stages: tuple[Stage, ...]
    contents: Contents = field(default_factory=dict)

    @cached_property
    def dependants(self) -> dict[str, list[Stage]]:
        """Map the key of each stage to the stages that wait for it."""
        dependants: dict[str, list[Stage]] = {stage.key: [] for stage in self.stages}
        for stage in self.stages:
            for needed in {needed.key for needed in stage.waits_for}:
                dependants[needed].append(stage)
        return dependants

    @cached_property
    def urgency(self) -> dict[str, float]:
        """Map each key to the work (`StageKind.work`) on the longest path that starts at its stage.

        The ready stage with the largest value starts first.
        """
        urgency: dict[str, float] = {}
        for stage in reversed(self.stages):
            after = max((urgency[after.key] for after in self.dependants[stage.key]), default=0.0)
            urgency[stage.key] = stage.spec.work(stage.config) + after
        return urgency


def expand(recipe: Recipe, contents: Contents = NO_CONTENTS) -> Matrix:
    """List every stage of a recipe, in dependency order.

    Args:
        recipe: the recipe.
        contents: digests of the contents of its inputs (`harness.runner.inputs`).
    """
    recipe = with_label_kinds(recipe, contents)
    stages: dict[str, Stage] = {}
    for stage in _stages(recipe, contents):
        known = stages.get(stage.key)
        # A reference model, which has `role` in its axes, may have the same key as a model of the
        # recipe. Keep the stage of the recipe's model, because reports need its axes.
        if known is None or ("role" in known.axes and "role" not in stage.axes):
            stages[stage.key] = stage
    return Matrix(recipe, tuple(_without_unneeded(list(stages.values()))), contents)


def _without_unneeded(stages: list[Stage]) -> list[Stage]:
    """Drop data, rankings, features and reference models that no other stage needs."""
    needed: set[str] = set()
    kept = []
    specs = specs_of(stages)
    for stage in reversed(stages):
        if stage.key in needed or not (specs[stage.kind].on_demand or "role" in stage.axes):
            for need in stage.waits_for:
                needed.add(need.key)
            kept.append(stage)
    return kept[::-1]


def _stages(recipe: Recipe, contents: Contents) -> Iterable[Stage]:
    targets = [
        (
            target,
            write(
                target,
                encoding_of(target, recipe),
                None,
                {},
                SPLITS,
                "all",
                contents,
            ),
        )
        for target in recipe.targets
    ]
    selection = AxisSelection(recipe)
    source = None
    if recipe.source is not None:
        trained = list(_pretrained(recipe, recipe.source, selection, targets, contents))
        yield from trained
        if recipe.measures_models:
            source = _images_to_measure_on(recipe, recipe.source, trained, contents)
            yield source
    yield from (data for _, data in targets)
    yield from stages_of_models(recipe, selection, targets, contents, source)


def _images_to_measure_on(
    recipe: Recipe, source: DataSettings, trained: list[Stage], contents: Contents
) -> Stage:
    """Make the stage that writes the source's val images, which `models` are measured on.

    If a stage of `trained` needs the betons with all classes of train and val, no other betons are
    written: returns the stage that writes these.
    """
    whole = _whole_source(recipe, source, contents)
    if any(stage.key == whole.key for stage in _without_unneeded(trained)):
        return whole
    return write(source, encoding_of(source, recipe), None, {}, ("val",), "all", contents)


def _pretrained(
    recipe: Recipe,
    source: DataSettings,
    selection: AxisSelection,
    targets: list[tuple[DataSettings, Stage]],
    contents: Contents,
) -> Iterable[Stage]:
    """Expand every model to pretrain, the stages that it needs, and the stages that use it."""
    encoding = encoding_of(source, recipe)
    ranking = None
    whole = _all_classes(source, recipe.subsets)
    all_data = _whole_source(recipe, source, contents)
    if recipe.ranking is not None:
        models_to_rank = references(recipe, all_data)
        ranking = rank(recipe, models_to_rank, all_data)
        yield from (all_data, *models_to_rank.values(), ranking)
    yield all_data

    models = list(selection.models())
    used = {axes["subset"] for axes in models}
    keep_all = {subset.name for subset in recipe.subsets if subset.keeps_all_images}
    scorers = Selections(recipe, all_data, targets, contents)
    sources: dict[str, Stage] = {}
    for subset in (subset for subset in recipe.subsets if subset.name in used):
        needs = {"ranking": ranking} if subset.needs_ranking == "reference" and ranking else {}
        needs |= scorers.needs_of(subset)
        if recipe.in_place and not subset.is_everything and subset is not whole:
            of_source = {"dataset": source.label}
            sources[subset.name] = subset_stage(subset, all_data, needs, of_source)
            continue
        spec = None if subset.is_everything else subset
        sources[subset.name] = write(
            source, encoding, spec, needs, _SOURCE_SPLITS, subset.name, contents
        )
    yield from scorers.stages()
    yield from sources.values()
    yield from (data for _, data in targets)

    comparison = _comparison(
        [subset for subset in recipe.subsets if subset.name in sources], recipe.evaluate.common
    )
    roles = {f"common_{index}": data for index, data in enumerate(sources.values())}
    compared = {*comparison.get("common", roles), *comparison.get("coarse", ())}
    common = {role: data for role, data in roles.items() if role in compared}
    variants = {
        name: _VariantStages(recipe, settings, targets, comparison)
        for name, settings in (recipe.variants or {"": recipe.pretrain}).items()
    }
    several_archs = len({axes["arch"] for axes in models}) > 1
    for axes in models:
        data, variant = sources[axes["subset"]], variants[axes.get("variant", "")]
        name_suffix = "/".join(
            map(
                str,
                (
                    axes["subset"],
                    *([axes["arch"]] if several_archs else []),
                    *([axes["variant"]] if recipe.variants else []),
                    f"eps{axes['eps']:g}",
                    f"seed{axes['seed']}",
                ),
            )
        )
        needs = {"data": data}
        config = variant.pretrain.config(
            axes["arch"],
            axes["eps"],
            axes["seed"],
            all_images=data.key == all_data.key or axes["subset"] in keep_all,
        )
        if config["settings"].get("length") == "equal_steps":
            needs["all_data"] = all_data
        model = Stage("pretrain", config, needs, axes, f"pretrain/{name_suffix}")
        yield model
        yield Stage(
            "evaluate",
            variant.evaluate(axes["eps"]),
            {"model": model, "data": data, **common},
            axes,
            f"evaluate/{name_suffix}",
        )
        for stage in (
            *variant.transfers.stages_for(model, seed=axes["seed"], name_suffix=name_suffix),
            *variant.scores.stages_for(model, name_suffix=name_suffix),
        ):
            if selection.includes({**axes, **stage.axes}):
                yield stage


class _VariantStages:
    """Configs that all models of one variant of training share."""

    def __init__(
        self,
        recipe: Recipe,
        settings: PretrainSettings,
        targets: list[tuple[DataSettings, Stage]],
        comparison: JSON,
    ) -> None:
        self._comparison = comparison
        self._recipe = recipe.model_copy(update={"pretrain": settings})
        self.pretrain = PretrainConfigs(self._recipe)
        self.transfers, self.scores = (
            Transfers(self._recipe, targets),
            Scores(self._recipe, targets),
        )
        self._evaluate: dict[float, JSON] = {}

    def evaluate(self, eps: float) -> JSON:
        """Config of the evaluate stages of models that were trained at `eps`."""
        if eps not in self._evaluate:
            self._evaluate[eps] = SharedConfig(
                _evaluate_config(self._recipe, eps) | self._comparison
            )
        return self._evaluate[eps]


def _whole_source(recipe: Recipe, source: DataSettings, contents: Contents) -> Stage:
    """Make the stage that writes train and val of the source with all classes."""
    whole = _all_classes(source, recipe.subsets)
    name = whole.name if whole else "all"
    encoding = encoding_of(source, recipe)
    return write(source, encoding, whole, {}, _SOURCE_SPLITS, name, contents)


def _all_classes(source: DataSettings, subsets: Iterable[SubsetSpec]) -> SubsetSpec | None:
    """Find a subset of the recipe that lists every class of the dataset, such as in1000.

    The stage that writes this subset is then used wherever data of all classes are needed.
    """
    known = spec_of(source.dataset).num_classes
    return next(
        (
            subset
            for subset in subsets
            if subset.classes is not None
            and len(subset.classes) == known
            and len(subset.all_steps) == 1
        ),
        None,
    )


def _evaluate_config(recipe: Recipe, eps: float) -> JSON:
    return {
        "settings": recipe.evaluate.resolved_for(eps, recipe.pretrain.compile),
        "eps": eps,
        **view_settings(recipe.pretrain),
        "flip_tta": recipe.pretrain.flip_tta,
    }


def _comparison(subsets: list[SubsetSpec], common_names: tuple[str, ...] | None) -> JSON:
    """Settings of an evaluate stage that depend on the recipe's subsets.

    The stage needs the data of subset i in the role `common_<i>`. `common` lists the roles of some
    subsets; models are compared on the classes that these subsets share. It is left out if it would
    list all subsets. `coarse` maps the roles of subsets with coarser labels to their names, and is
    left out if there are none.
    """
    coarse = {
        f"common_{index}": subset.name
        for index, subset in enumerate(subsets)
        if any(isinstance(step, Granularity) for step in subset.all_steps)
    }
    common = [
        f"common_{index}"
        for index, subset in enumerate(subsets)
        if (
            subset.name in common_names
            if common_names is not None
            else f"common_{index}" not in coarse
        )
    ]
    return {
        **({"common": common} if len(common) < len(subsets) else {}),
        **({"coarse": coarse} if coarse else {}),
    }
