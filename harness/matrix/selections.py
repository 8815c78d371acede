"""Stages that score classes and images for subsets with `by: reference`. Imports no torch.

    one model -> features -> select            label and feature mapping, prototypes
    early trainings -> select                  EL2N, forgetting
    views -> models -> transfers -> select     influence

The recipe's `selection` sets these models (`harness.config.selection`). Scores for a target are
computed on its train and val images. Subsets share stages with equal keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from harness.config.data import DataSettings
from harness.config.inputs import Contents
from harness.config.methods import available, settings_model
from harness.config.recipe import Recipe
from harness.matrix.features_and_scores import Features
from harness.matrix.pretrained_models import adopt_config
from harness.matrix.pretraining import PretrainConfigs, view_settings
from harness.matrix.stage import SCORES, Stage
from harness.matrix.transfers import Transfers
from writers import names
from writers.subset.scores import SEEN_SPLITS, ScoreRequest
from writers.subset.spec import SubsetSpec

JSON = dict[str, Any]
BOOTSTRAP_DRAWS = 1000  # resamples of the models, for confidence intervals of influences


def subset_stage(
    subset: SubsetSpec, all_data: Stage, needs: Mapping[str, Stage], axes: JSON
) -> Stage:
    """Make the stage that selects a subset in the `.beton` files with all classes of the source.

    Args:
        subset: the subset.
        all_data: stage that writes these files.
        needs: stages with a ranking or scores that the subset needs.
        axes: axis values of the stage, without `subset`.
    """
    return Stage(
        "view",
        {"subset": subset.model_dump(mode="json", exclude={"name"})},
        {"data": all_data, **needs},
        {**axes, "subset": subset.name},
        f"view/{axes['dataset']}/{subset.name}",
    )


class Selections:
    """Make the stages that score classes and images for subsets; subsets share them."""

    def __init__(
        self,
        recipe: Recipe,
        all_data: Stage,
        targets: Sequence[tuple[DataSettings, Stage]],
        contents: Contents,
    ) -> None:
        """Prepare the stages.

        Args:
            recipe: the recipe.
            all_data: stage that writes all classes of the source.
            targets: targets, with the stages that write their data.
            contents: contents of the recipe's inputs.
        """
        self._recipe, self._all_data, self._contents = recipe, all_data, contents
        self._targets = {target.label: (target, data) for target, data in targets}
        self._settings = recipe.selection
        self._features = Features(recipe)
        self._stages: dict[str, Stage] = {}  # by key; each follows the stages that it needs
        self._selects: dict[ScoreRequest, Stage] = {}  # subsets of several sizes share a stage

    def needs_of(self, subset: SubsetSpec) -> dict[str, Stage]:
        """Return the select stages that a subset needs, by role."""
        for request in subset.requests:
            if request not in self._selects:
                self._selects[request] = self._select(request)
        return {f"{SCORES}{request.role}": self._selects[request] for request in subset.requests}

    def stages(self) -> Iterator[Stage]:
        """Iterate over all stages that were made so far."""
        yield from self._stages.values()

    def _add(self, stage: Stage) -> Stage:
        return self._stages.setdefault(stage.key, stage)

    def _select(self, request: ScoreRequest) -> Stage:
        needs, more = {
            "label_mapping": self._label_mapping,
            "feature_mapping": self._feature_mapping,
            "prototypes": self._prototypes,
            "el2n": self._early,
            "forgetting": self._early,
            "influence": self._influence,
        }[request.method](request)
        config = {"method": request.method, "targets": list(request.targets), **more}
        return self._add(
            Stage(
                "select",
                config,
                needs,
                {"role": "selection", "targets": list(request.targets)},
                f"select/{request.role}",
            )
        )

    def _label_mapping(self, request: ScoreRequest) -> tuple[dict[str, Stage], JSON]:
        return {"model": self._surrogate(), **self._target_features(request)}, {}

    def _feature_mapping(self, request: ScoreRequest) -> tuple[dict[str, Stage], JSON]:
        needs, more = self._prototypes(request)
        return {**needs, **self._target_features(request)}, more

    def _prototypes(self, request: ScoreRequest) -> tuple[dict[str, Stage], JSON]:
        assert self._recipe.source is not None
        features = self._features.for_selection(
            self._surrogate(),
            self._recipe.source,
            self._all_data,
            splits=("train",),
            probs=False,
        )
        return {"source": self._add(features)}, {
            "clusters": request.clusters,
            "seed": request.seed,
        }

    def _target_features(self, request: ScoreRequest) -> dict[str, Stage]:
        """Make the stages that extract features of each target's train and val images."""
        model = self._surrogate()
        probs = request.method == "label_mapping"
        return {
            f"target_{number}": self._add(
                self._features.for_selection(
                    model, *self._data_of(name), splits=SEEN_SPLITS, probs=probs
                )
            )
            for number, name in enumerate(request.targets)
        }

    def _data_of(self, target: str) -> tuple[DataSettings, Stage]:
        settings, data = self._targets[target]
        self._add(data)
        return settings, data

    def _surrogate(self) -> Stage:
        settings = self._settings.surrogate
        if settings.model is not None:
            config = adopt_config(self._recipe, settings.model, self._contents)
            axes = {"role": "surrogate", "model": settings.model.name}
            return self._add(Stage("adopt", config, {}, axes, f"adopt/{settings.model.name}"))
        arch = self._recipe.archs[0]
        config = PretrainConfigs(self._recipe, settings.epochs).config(
            arch, 0.0, settings.seed, all_images=True
        )
        axes = _axes("surrogate", "all", arch, settings.seed)
        needs = {"data": self._add(self._all_data)}
        return self._add(Stage("pretrain", config, needs, axes, "pretrain/surrogate"))

    def _early(self, request: ScoreRequest) -> tuple[dict[str, Stage], JSON]:
        settings, arch = self._settings.early, self._recipe.archs[0]
        configs = PretrainConfigs(self._recipe)
        needs = {"data": self._add(self._all_data)}
        for seed in settings.seeds:
            config = {
                **configs.config(arch, 0.0, seed, all_images=True),
                "first_epochs": min(settings.epochs, self._recipe.pretrain.epochs),
            }
            needs[f"model_{seed}"] = self._add(
                Stage(
                    "pretrain",
                    config,
                    {"data": self._all_data},
                    _axes("early", "all", arch, seed),
                    f"pretrain/early/seed{seed}",
                )
            )
        view = view_settings(self._recipe.pretrain)
        return needs, {"batch_size": self._settings.batch_size, **view}

    def _influence(self, request: ScoreRequest) -> tuple[dict[str, Stage], JSON]:
        settings = self._settings.influence
        method = self._recipe.methods.get(settings.method)
        if method is None:
            name = names.normalize(settings.method)
            if name not in available():
                raise names.unknown("method", settings.method, available())
            method = settings_model(name)(method=name)
        recipe = self._influence_recipe.model_copy(
            update={"methods": {settings.method: method}, "scores": ()}
        )
        transfers = Transfers(recipe, [self._data_of(name) for name in request.targets])
        needs: dict[str, Stage] = {}
        for number, (view, model) in enumerate(self._half_models):
            needs[f"view_{number}"] = self._add(view)
            self._add(model)
            seed, name_suffix = settings.seed + number, f"influence/{number}"
            for stage in transfers.stages_for(model, seed=seed, name_suffix=name_suffix):
                self._add(stage)
                if stage.kind == "transfer":
                    place = request.targets.index(stage.axes["target"])
                    needs[f"transfer_{number}_{place}"] = stage
        return {"data": self._add(self._all_data), **needs}, {
            "num_models": settings.num_models,
            "draws": BOOTSTRAP_DRAWS,
            "seed": settings.seed,
        }

    @cached_property
    def _influence_recipe(self) -> Recipe:
        own = self._settings.influence.pretrain
        return self._recipe if own is None else self._recipe.model_copy(update={"pretrain": own})

    @cached_property
    def _half_models(self) -> list[tuple[Stage, Stage]]:
        """Stages of random halves of the classes, each with that of a model, for all targets."""
        settings = self._settings.influence
        arch = settings.arch or self._recipe.archs[0]
        configs = PretrainConfigs(self._influence_recipe)
        stages = []
        for number in range(settings.num_models):
            seed = settings.seed + number
            half = _half(seed)
            view = subset_stage(half, self._all_data, {}, _axes_of_view(self._all_data))
            model = Stage(
                "pretrain",
                configs.config(arch, 0.0, seed, all_images=True),
                {"data": view},
                _axes("influence", half.name, arch, seed),
                f"pretrain/influence/{number}",
            )
            stages.append((view, model))
        return stages


def _half(seed: int) -> SubsetSpec:
    """Random half of the classes, drawn with this seed."""
    return SubsetSpec.model_validate(
        {"name": f"half-{seed}", "half": {"of": "random", "which": "A", "seed": seed}}
    )


def _axes(role: str, subset: str, arch: str, seed: int) -> JSON:
    return {"role": role, "subset": subset, "arch": arch, "eps": 0.0, "seed": seed}


def _axes_of_view(all_data: Stage) -> JSON:
    return {"role": "influence", "dataset": all_data.axes["dataset"]}
