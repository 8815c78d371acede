"""Stages that use frozen models: `features` of a target's images, and `score` on these features.

A score, such as LEEP, estimates how well a model suits a target (a downstream dataset).

Imports no torch.
"""

from collections.abc import Iterator, Sequence

from harness.config.data import DataSettings
from harness.config.methods import any_needs_features
from harness.config.recipe import Recipe
from harness.matrix.stage import SharedConfig, Stage
from loaders import interpolation
from writers import names
from writers.split_names import SPLITS


class Scores:
    """Make the score stages of a recipe's models; there are none if it has no `scores`."""

    def __init__(self, recipe: Recipe, targets: Sequence[tuple[DataSettings, Stage]]) -> None:
        """Prepare the configs.

        targets: targets, with the stages that write their data.
        """
        self._features = Features(recipe)
        # Leave out targets with boxes: scores compare features with labels of whole images.
        self._targets = [
            (target, data) for target, data in targets if recipe.scores and not target.has_boxes
        ]
        every = recipe.scores == "all"
        self._config = SharedConfig(
            scores=names.names("harness.transfer.scores") if every else list(recipe.scores)
        )

    def stages_for(self, model: Stage, *, name_suffix: str) -> Iterator[Stage]:
        """Iterate over the scores of one model for each target, and the features that they need."""
        for target, data in self._targets:
            features = self._features.stage_for(model, target, data, name_suffix=name_suffix)
            yield features
            yield Stage(
                "score",
                self._config,
                {"features": features},
                features.axes,
                f"score/{target.label}/{name_suffix}",
            )


class Features:
    """Features stages of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        """Choose the splits: all if a method trains on features; else train, for scores."""
        self._settings, self._trained = recipe.features, recipe.pretrain
        self._configs: dict[tuple[bool, float | None], SharedConfig] = {}
        self._splits = SPLITS if any_needs_features(recipe.methods.values()) else ("train",)

    def stage_for(
        self,
        model: Stage,
        target: DataSettings,
        data: Stage,
        *,
        name_suffix: str,
        eval_crop: float | None = None,
    ) -> Stage:
        """Make the stage that extracts the features of a target.

        Args:
            model: stage of the model.
            target: the dataset.
            data: stage that writes the dataset.
            name_suffix: end of the stage's name.
            eval_crop: center crop, as a fraction of the shorter side. None means `eval_crop` of the
                recipe's `features`.
        """
        place = model.kind == "pretrain", eval_crop
        if place not in self._configs:
            self._configs[place] = self._config(is_trained_here=place[0], eval_crop=eval_crop)
        return Stage(
            "features",
            self._configs[place],
            {"model": model, "data": data},
            {**model.axes, "target": target.label},
            f"features/{target.label}/{name_suffix}",
        )

    def for_selection(
        self,
        model: Stage,
        data: DataSettings,
        written: Stage,
        *,
        splits: tuple[str, ...],
        probs: bool,
    ) -> Stage:
        """Make the stage that extracts features by which source classes are selected.

        Args:
            model: stage of the model.
            data: the dataset.
            written: stage that writes the dataset.
            splits: splits to extract features of.
            probs: also keep the probabilities of the pretraining classes.
        """
        config = self._config(is_trained_here=model.kind == "pretrain", eval_crop=None)
        own: dict[str, object] = {"splits": list(splits), **({} if probs else {"probs": False})}
        return Stage(
            "features",
            {**config, **own},
            {"model": model, "data": written},
            {**model.axes, "target": data.label},
            f"features/selection/{data.label}",
        )

    def _config(self, *, is_trained_here: bool, eval_crop: float | None) -> SharedConfig:
        settings, trained = self._settings, self._trained
        # None means the value in the model's metadata.
        view = {"resolution": settings.resolution, "eval_crop": eval_crop or settings.eval_crop}
        if is_trained_here:
            view = {
                "resolution": view["resolution"] or trained.eval_resolution or trained.resolution,
                "eval_crop": view["eval_crop"] or trained.eval_crop,
            }
        return SharedConfig(
            **view,
            interpolation=settings.interpolation,
            resize_version=interpolation.RESIZE_VERSION,
            batch_size=settings.batch_size,
            precision=settings.precision,
            splits=list(self._splits),
        )
