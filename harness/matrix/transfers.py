"""The transfer stages of a matrix: every model to every target by every method. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from harness.config import grid
from harness.config import method_options as method_check
from harness.config.recipe import DataSettings, Recipe
from harness.config.transfer import TransferSettings
from harness.matrix import features_and_scores as matrix_zoo
from harness.matrix.stage import Shared, Stage

JSON = dict[str, Any]
FANNED_OUT = ("per_class", "steps")  # a list of these makes a stage of each
# Left out of a config where they say nothing, so that a new setting changes no key.
OPTIONAL = TransferSettings.__annotations__.keys() - {
    "epochs",
    "batch_size",
    "optimizer",
    "lrs",
    "bn_stats",
}
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
    target: DataSettings, data: Stage, label: str, settings: TransferSettings
) -> Iterator[_Point]:
    name = method_check.name_of(label, settings)
    method = method_check.constants(name)
    for axes in _fanned_out(settings):
        effective = Shared(_effective(settings.model_copy(update=axes), method.TAKES))
        config = {"method": name, "metric": _metric(target), "settings": effective}
        own = settings.eval_crop if "eval_crop" in settings.model_fields_set else None
        yield _Point(
            target,
            data,
            label,
            method.NEEDS,
            config,
            axes,
            dict(zip(grid.feature_roles(settings), settings.grid.eval_crop or (own,), strict=True)),
        )


def _fanned_out(settings: TransferSettings) -> Iterator[JSON]:
    """Values of the axes that the recipe gives."""
    axes: list[JSON] = [{}]
    for axis in FANNED_OUT:
        if (asked := getattr(settings, axis)) is not None:
            values = asked if isinstance(asked, tuple) else (asked,)
            axes = [{**point, axis: value} for point in axes for value in values]
    yield from axes


def _effective(settings: TransferSettings, takes: frozenset[str]) -> JSON:
    """The settings without those that have no effect on the method or beside the others; reads back into an equal model.

    takes: what has an effect on the method.
    """
    plain = settings.model_copy(
        update={"lrs": settings.rates, "grid": settings.grid.model_copy(update={"lr": None})}
    )
    dump = plain.model_dump(mode="json", exclude={"method", "per_target"})
    dump["optimizer"] = settings.optimizer.effective()
    dump["grid"] = {axis: list(values) for axis, values in plain.grid.axes().items()}
    axes = dump["grid"].keys()
    del dump["optimizer"]["lr"]  # its `lrs` decide
    for name in method_check.OF_WEIGHT_DECAY - takes | (
        {"weight_decay"} if {"weight_decay", "decay_ratio"} & axes else set()
    ):
        del dump["optimizer"][name]
    if settings.train_crop == "center":
        del dump["crop_scale"], dump["crop_ratio"]
    if settings.steps is not None or {"epochs", "steps"} & axes:
        del dump["epochs"]
    for name in dump.keys() - takes | (
        set() if "epochs" in takes else {"eval_crop"}
    ):  # the features' own stage has it
        dump.pop(name, None)
    if "eval_crop" in axes:
        dump.pop("eval_crop", None)
    usual = TransferSettings()
    for name in OPTIONAL & dump.keys():
        if name in axes or getattr(plain, name) == getattr(usual, name):
            del dump[name]
    return dump


def _architecture(model: Stage) -> JSON:
    settings = model.config["settings"]
    return {
        "arch": model.config["arch"],
        "channels": settings.get("channels"),
        "blur_pool": settings.get("blur_pool", False),
    }


def _metric(target: DataSettings) -> str:
    return target.metric or str(import_module(f"writers.datasets.{target.dataset}").SPEC.metric)
