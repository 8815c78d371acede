"""Expands a recipe into its stages: write -> (reference -> rank) -> pretrain -> evaluate, transfer, features -> score.

A pure function of the recipe: no disk, no torch. Equal stages merge by key, and settings that do not change a stage's
outcome are left out of its config, so that a change in the recipe touches only the stages that it truly changes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.config.axes import AxisSelection
from harness.config.recipe import DataSettings, RankingSettings, Recipe
from harness.config.train import PretrainSettings
from harness.matrix.features_and_scores import Scores
from harness.matrix.pretrained_models import adopted
from harness.matrix.stage import Shared, Stage
from harness.matrix.transfers import Transfers
from writers.beton.encoding import Encoding
from writers.dataset import spec_of
from writers.subset.class_steps import Coarsen
from writers.subset.spec import SubsetSpec

JSON = dict[str, Any]


@dataclass(frozen=True)
class Matrix:
    """The stages of a recipe, each once, every stage after those it needs."""

    recipe: Recipe
    stages: tuple[Stage, ...]

    @cached_property
    def dependants(self) -> dict[str, list[Stage]]:
        """Key of a stage -> the stages that need it."""
        found: dict[str, list[Stage]] = {stage.key: [] for stage in self.stages}
        for stage in self.stages:
            for needed in {needed.key for needed in stage.waits_for}:
                found[needed].append(stage)
        return found

    @cached_property
    def urgency(self) -> dict[str, float]:
        """Key -> work on the longest path from the stage to the end of the matrix; the largest goes first."""
        found: dict[str, float] = {}
        for stage in reversed(self.stages):
            after = max((found[after.key] for after in self.dependants[stage.key]), default=0.0)
            found[stage.key] = stage.spec.work(stage.config) + after
        return found


def expand(recipe: Recipe) -> Matrix:
    """Every stage of the recipe, in dependency order."""
    stages: dict[str, Stage] = {}
    for stage in _stages(recipe):
        known = stages.get(stage.key)
        # A reference model that equals one of the models is that model: its axes are what reports look for.
        if known is None or ("role" in known.axes and "role" not in stage.axes):
            stages[stage.key] = stage
    return Matrix(recipe, tuple(_of_use(list(stages.values()))))


def _of_use(stages: list[Stage]) -> list[Stage]:
    """Without data, rankings and features that only stages would need that the recipe leaves out."""
    needed: set[str] = set()
    kept = []
    for stage in reversed(stages):
        if stage.key in needed or not (stage.spec.on_demand or "role" in stage.axes):
            needed.update(need.key for need in stage.waits_for)
            kept.append(stage)
    return kept[::-1]


def _stages(recipe: Recipe) -> Iterable[Stage]:
    targets = [
        (
            target,
            _write(
                target,
                target.encoding or recipe.encoding,
                None,
                {},
                ("train", "val", "test"),
                "all",
            ),
        )
        for target in recipe.targets
    ]
    selection = AxisSelection(recipe)
    if recipe.source is not None:
        yield from _pretrained(recipe, recipe.source, selection, targets)
    yield from (data for _, data in targets)
    yield from adopted(recipe, selection, targets)


def _pretrained(
    recipe: Recipe,
    source: DataSettings,
    selection: AxisSelection,
    targets: list[tuple[DataSettings, Stage]],
) -> Iterable[Stage]:
    """Every model that the recipe pretrains, with all that it needs and all that hangs on it."""
    encoding = source.encoding or recipe.encoding
    ranking = None
    whole = _all_classes(source, recipe.subsets)
    all_data = _write(source, encoding, whole, {}, ("train", "val"), whole.name if whole else "all")
    if recipe.ranking is not None:
        references = _references(recipe, all_data)
        ranking = _rank(recipe, references, all_data)
        yield from (all_data, *references.values(), ranking)
    yield all_data

    models = list(selection.models())
    used = {axes["subset"] for axes in models}
    sources: dict[str, Stage] = {}
    for subset in (subset for subset in recipe.subsets if subset.name in used):
        needs = {"ranking": ranking} if subset.needs_ranking == "reference" and ranking else {}
        spec = None if subset.is_everything else subset
        sources[subset.name] = _write(source, encoding, spec, needs, ("train", "val"), subset.name)
    yield from sources.values()
    yield from (data for _, data in targets)

    common = {f"common_{index}": data for index, data in enumerate(sources.values())}
    compared = _compared(
        [subset for subset in recipe.subsets if subset.name in sources], recipe.evaluate.common
    )
    variants = {
        name: _Variant(recipe, settings, targets, compared)
        for name, settings in (recipe.variants or {"": recipe.pretrain}).items()
    }
    several_archs = len({axes["arch"] for axes in models}) > 1
    for axes in models:
        data, variant = sources[axes["subset"]], variants[axes.get("variant", "")]
        short = "/".join(
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
            axes["arch"], axes["eps"], axes["seed"], all_classes=data.key == all_data.key
        )
        if config["settings"].get("length") == "equal_steps":
            needs["all_data"] = all_data
        model = Stage("pretrain", config, needs, axes, f"pretrain/{short}")
        yield model
        yield Stage(
            "evaluate",
            variant.evaluate(axes["eps"]),
            {"model": model, "data": data, **common},
            axes,
            f"evaluate/{short}",
        )
        for stage in (
            *variant.transfers.of(model, seed=axes["seed"], short=short),
            *variant.scores.of(model, short=short),
        ):
            if selection.includes({**axes, **stage.axes}):
                yield stage


class _Variant:
    """What is the same for all models that are trained in one way."""

    def __init__(
        self,
        recipe: Recipe,
        settings: PretrainSettings,
        targets: list[tuple[DataSettings, Stage]],
        compared: JSON,
    ) -> None:
        self._compared = compared
        self._recipe = recipe.model_copy(update={"pretrain": settings})
        self.pretrain = _PretrainConfigs(self._recipe)
        self.transfers, self.scores = (
            Transfers(self._recipe, targets),
            Scores(self._recipe, targets),
        )
        self._evaluate: dict[float, JSON] = {}

    def evaluate(self, eps: float) -> JSON:
        """The config of an evaluate stage."""
        if eps not in self._evaluate:
            self._evaluate[eps] = Shared(_evaluate_config(self._recipe, eps) | self._compared)
        return self._evaluate[eps]


def _write(
    data: DataSettings,
    encoding: Encoding,
    subset: SubsetSpec | None,
    needs: dict[str, Stage],
    splits: tuple[str, ...],
    subset_name: str,
) -> Stage:
    config = {
        "data": data.resolved_for(splits),
        "encoding": encoding.model_dump(mode="json"),
        "subset": subset.model_dump(mode="json") if subset else None,
        "splits": list(splits),
    }
    axes = {"dataset": data.label, "subset": subset_name}
    return Stage("write", config, needs, axes, f"write/{data.label}/{subset_name}")


def _all_classes(source: DataSettings, subsets: Iterable[SubsetSpec]) -> SubsetSpec | None:
    """A subset of the recipe that lists every class of the dataset, such as in1000: its data are those of all classes."""
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


def _references(recipe: Recipe, all_data: Stage) -> dict[str, Stage]:
    """By role: the clean models on all classes whose accuracies rank them, none on images that it was trained on."""
    assert recipe.ranking is not None
    arch, seed = recipe.archs[0], recipe.ranking.seed
    config = _PretrainConfigs(recipe, recipe.ranking.epochs).config(
        arch, 0.0, seed, all_classes=True
    )
    axes = {"role": "reference", "subset": "all", "arch": arch, "eps": 0.0, "seed": seed}
    short = f"pretrain/reference/seed{seed}"
    if recipe.ranking.split != "train":
        return {
            "model": Stage(
                "pretrain", config | _held_out(recipe.ranking), {"data": all_data}, axes, short
            )
        }
    return {
        f"model_{part['fold']}": Stage(
            "pretrain",
            config | {"held_out": part},
            {"data": all_data},
            axes | {"fold": part["fold"]},
            f"{short}/fold{part['fold']}",
        )
        for part in recipe.ranking.held_out
    }


def _rank(recipe: Recipe, references: dict[str, Stage], all_data: Stage) -> Stage:
    assert recipe.ranking is not None
    split = "val" if recipe.ranking.split == "val" else "train"
    config = {
        "split": split,
        **_held_out(recipe.ranking),
        "batch_size": recipe.evaluate.batch_size,
        **_looks(recipe.pretrain),
    }
    axes = {
        axis: value
        for axis, value in next(iter(references.values())).axes.items()
        if axis != "fold"
    }
    return Stage("rank", config, {**references, "data": all_data}, axes, "rank/reference")


def _held_out(ranking: RankingSettings) -> JSON:
    """Where one model leaves out one part."""
    return {"held_out": ranking.held_out[0]} if ranking.split == "held_out" else {}


class _PretrainConfigs:
    """Configs of pretrain stages. The settings are dumped once per combination, not per stage."""

    def __init__(self, recipe: Recipe, epochs: int | None = None) -> None:
        self._pretrain = recipe.pretrain.model_copy(update={"epochs": epochs} if epochs else {})
        self._settings: dict[tuple[bool, bool], Shared] = {}

    def config(self, arch: str, eps: float, seed: int, *, all_classes: bool) -> JSON:
        """Config of the stage at one point of the axes."""
        combination = eps > 0, all_classes
        if combination not in self._settings:
            self._settings[combination] = Shared(
                self._pretrain.resolved_for(attacked=eps > 0, all_classes=all_classes)
            )
        return {"arch": arch, "eps": eps, "seed": seed, "settings": self._settings[combination]}


def _evaluate_config(recipe: Recipe, eps: float) -> JSON:
    return {
        "settings": recipe.evaluate.resolved_for(eps),
        "eps": eps,
        **_looks(recipe.pretrain),
        "flip_tta": recipe.pretrain.flip_tta,
    }


def _compared(subsets: list[SubsetSpec], asked: tuple[str, ...] | None) -> JSON:
    """What an evaluate stage is told of the subsets beside its needs: whose shared classes are the common ones, where they are
    not those of all, and which have coarser labels, where some have."""
    coarse = {
        f"common_{index}": subset.name
        for index, subset in enumerate(subsets)
        if any(isinstance(step, Coarsen) for step in subset.all_steps)
    }
    common = [
        f"common_{index}"
        for index, subset in enumerate(subsets)
        if (subset.name in asked if asked is not None else f"common_{index}" not in coarse)
    ]
    return {
        **({"common": common} if len(common) < len(subsets) else {}),
        **({"coarse": coarse} if coarse else {}),
    }


def _looks(settings: PretrainSettings) -> JSON:
    """How a pretrained model is evaluated: what it is shown, and the precision that it was trained in, `auto` as such."""
    return {
        "resolution": settings.eval_resolution or settings.resolution,
        "eval_crop": settings.eval_crop,
        "precision": settings.precision,
    }
