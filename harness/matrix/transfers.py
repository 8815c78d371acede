"""The transfer stages of a matrix: every model to every target by every method. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from harness.config import grid
from harness.config.recipe import DataSettings, Recipe
from harness.config.transfer import MethodSettings
from harness.matrix import features_and_scores as matrix_zoo
from harness.matrix.stage import Shared, Stage

JSON = dict[str, Any]
FANNED_OUT = ("per_class", "steps")  # a list of these makes a stage of each
SOURCE_AXES = (
    "arch",
    "seed",
)  # what is left of a model's axes for a method that does not look at its weights


@dataclass(frozen=True)
class _Point:
    """One method on one target, with one value of each axis that is fanned out."""

    target: DataSettings
    data: Stage
    label: str
    needs: str | None
    config: JSON
    axes: JSON
    crops: dict[
        str, float | None
    ]  # role of the features that it needs -> their crop; None: the recipe's own

    @property
    def name(self) -> str:
        return "/".join(
            (
                self.target.label,
                self.label,
                *(f"{axis}{value}" for axis, value in self.axes.items()),
            )
        )


class Transfers:
    """What a recipe does with each model; the settings are dumped once and not per model."""

    def __init__(self, recipe: Recipe, targets: Sequence[tuple[DataSettings, Stage]]) -> None:
        """targets: each with the stage that writes its data."""
        self._points = [
            point
            for target, data in targets
            for label, settings in recipe.methods.items()
            for point in _points(target, data, label, settings.for_target(target.dataset))
        ]
        self._features = matrix_zoo.Features(recipe)

    def of(self, model: Stage, *, seed: int, short: str) -> Iterator[Stage]:
        """The transfers of one model. short: what names of its stages end in."""
        for point in self._points:
            axes = {"target": point.target.label, "method": point.label, **point.axes}
            config = {**point.config, "seed": seed}
            if (
                point.needs is None and model.kind == "pretrain"
            ):  # all models of one architecture share it
                own = {axis: model.axes[axis] for axis in SOURCE_AXES}
                short_own = "/".join(
                    f"{axis}{value}" if axis == "seed" else str(value)
                    for axis, value in own.items()
                )
                yield Stage(
                    "transfer",
                    {**config, "arch": _architecture(model)},
                    {"data": point.data},
                    {**own, **axes},
                    f"transfer/{point.name}/{short_own}",
                )
            elif point.needs == "features":
                needs = {
                    role: self._features.of(
                        model, point.target, point.data, short=short, eval_crop=crop
                    )
                    for role, crop in point.crops.items()
                }
                yield from needs.values()
                seeded = (
                    {"seed": seed} if "per_class" in point.axes else {}
                )  # the draw of images; else it has none
                yield Stage(
                    "transfer",
                    {**point.config, **seeded},
                    needs,
                    {**model.axes, **axes},
                    f"transfer/{point.name}/{short}",
                )
            else:
                yield Stage(
                    "transfer",
                    config,
                    {"model": model, "data": point.data},
                    {**model.axes, **axes},
                    f"transfer/{point.name}/{short}",
                )


def _points(
    target: DataSettings, data: Stage, label: str, settings: MethodSettings
) -> Iterator[_Point]:
    for axes in _fanned_out(settings):
        resolved = Shared(settings.model_copy(update=axes).resolved())
        config = {"method": settings.method, "metric": _metric(target), "settings": resolved}
        own = settings.eval_crop if "eval_crop" in settings.model_fields_set else None
        yield _Point(
            target,
            data,
            label,
            settings.NEEDS,
            config,
            axes,
            dict(zip(grid.feature_roles(settings), settings.grid.eval_crop or (own,), strict=True)),
        )


def _fanned_out(settings: MethodSettings) -> Iterator[JSON]:
    """Values of the axes that the recipe gives."""
    axes: list[JSON] = [{}]
    for axis in FANNED_OUT:
        if (asked := getattr(settings, axis, None)) is not None:
            values = asked if isinstance(asked, tuple) else (asked,)
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
    return target.metric or str(import_module(f"writers.datasets.{target.dataset}").SPEC.metric)
