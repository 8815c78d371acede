"""Transfer stages of a matrix: every model to every target by every method. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config import grid
from harness.config.data import DataSettings
from harness.config.recipe import Recipe
from harness.config.transfer import FANNED_OUT, MethodSettings
from harness.matrix.features_and_scores import Features
from harness.matrix.stage import SharedConfig, Stage
from loaders import interpolation

JSON = dict[str, Any]
# Axes that a transfer takes from its model if the method uses none of the model's weights.
SOURCE_AXES = ("arch", "seed")


@dataclass(frozen=True, eq=False)
class _Point:
    """One method on one target, with one value of each setting in `FANNED_OUT` that has a list.

    Attributes:
        data: stage that writes the target.
        label: label of the method in the recipe.
        needs: "model" or "features": role of the stage that the method starts from. None if it uses
            no source model.
        crops: role of the needed features -> their center crop. None means `features.eval_crop`.
        name: beginning of the names of the stages.
    """

    target: DataSettings
    data: Stage
    label: str
    needs: str | None
    config: JSON
    axes: JSON
    crops: dict[str, float | None]
    name: str


class Transfers:
    """Make the transfer stages of a recipe's models; all models share the serialized settings."""

    def __init__(self, recipe: Recipe, targets: Sequence[tuple[DataSettings, Stage]]) -> None:
        """Prepare the configs.

        targets: targets, with the stages that write their data.
        """
        self._points = [
            point
            for target, data in targets
            for label, settings in recipe.methods.items()
            if target.has_boxes == settings.NEEDS_BOXES
            for point in _points(target, data, label, settings.for_target(target.dataset))
        ]
        self._features = Features(recipe)
        self._configs: dict[tuple[_Point, int], SharedConfig] = {}

    def stages_for(self, model: Stage, *, seed: int, name_suffix: str) -> Iterator[Stage]:
        """Iterate over the transfers of one model, and the features that they need.

        Args:
            model: stage of the model.
            seed: seed of new heads and of the order of images.
            name_suffix: end of the stages' names.
        """
        for point in self._points:
            axes = point.axes
            config = self._config(point, seed)
            # If a method needs no weights, all models of one architecture share its transfers.
            if point.needs is None and model.kind == "pretrain":
                own = {axis: model.axes[axis] for axis in SOURCE_AXES}
                own_suffix = "/".join(
                    f"{axis}{value}" if axis == "seed" else str(value)
                    for axis, value in own.items()
                )
                yield Stage(
                    "transfer",
                    {**config, "arch": _architecture(model)},
                    {"data": point.data},
                    {**own, **axes},
                    f"transfer/{point.name}/{own_suffix}",
                )
            elif point.needs == "features":
                needs = {
                    role: self._features.stage_for(
                        model, point.target, point.data, name_suffix=name_suffix, eval_crop=crop
                    )
                    for role, crop in point.crops.items()
                }
                yield from needs.values()
                yield Stage(
                    "transfer",
                    config,
                    needs,
                    {**model.axes, **axes},
                    f"transfer/{point.name}/{name_suffix}",
                )
            else:
                yield Stage(
                    "transfer",
                    config,
                    {"model": model, "data": point.data},
                    {**model.axes, **axes},
                    f"transfer/{point.name}/{name_suffix}",
                )

    def _config(self, point: _Point, seed: int) -> SharedConfig:
        """Config of a point's transfers; one object for all models with equal seeds."""
        if (point, seed) not in self._configs:
            if point.needs == "features":
                # The seed has no effect except on the draw of images.
                own = {"seed": seed} if "per_class" in point.axes else {}
            else:
                own = {"seed": seed, "resize_version": interpolation.RESIZE_VERSION}
            self._configs[point, seed] = SharedConfig({**point.config, **own})
        return self._configs[point, seed]


def _points(
    target: DataSettings, data: Stage, label: str, settings: MethodSettings
) -> Iterator[_Point]:
    for axes in _fanned_out(settings):
        resolved = SharedConfig(settings.model_copy(update=axes).resolved())
        config = {"method": settings.method, "metric": _metric(target), "settings": resolved}
        own = settings.eval_crop if "eval_crop" in settings.model_fields_set else None
        yield _Point(
            target,
            data,
            label,
            settings.NEEDS,
            config,
            {"target": target.label, "method": label, **axes},
            dict(zip(grid.feature_roles(settings), settings.grid.eval_crop or (own,), strict=True)),
            "/".join((target.label, label, *(f"{axis}{value}" for axis, value in axes.items()))),
        )


def _fanned_out(settings: MethodSettings) -> Iterator[JSON]:
    """Iterate over combinations of the values of settings in `FANNED_OUT`."""
    axes: list[JSON] = [{}]
    for axis in FANNED_OUT:
        if (setting := getattr(settings, axis, None)) is not None:
            values = setting if isinstance(setting, tuple) else (setting,)
            axes = [{**point, axis: value} for point in axes for value in values]
    yield from axes


def _architecture(model: Stage) -> JSON:
    settings = model.config["settings"]
    return {
        "arch": model.config["arch"],
        "channels": settings.get("channels"),
        "blur_pool": settings.get("blur_pool", False),
    }


def _metric(target: DataSettings) -> str:
    return target.metric or target.own_metric
