"""Settings that transfer methods share. Imports no torch.

A method's own settings are in `harness/transfer/methods/<name>/settings.py`, in a class that
extends `MethodSettings` or `TransferSettings`; `harness.config.methods` finds it by name.
"""

import json
from collections.abc import Iterator, Mapping
from math import prod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.config.base import JSON, Count, NotNegative, Positive, Settings, repeated
from harness.config.products import too_many
from harness.config.train import ScheduleSettings, TrainSettings

BnStats = Literal["frozen", "update"]
Whole = Annotated[int, Field(ge=0)]
Crop = Annotated[float, Field(gt=0, le=1)]
Role = Literal["model", "features"]
FANNED_OUT = ("per_class", "steps")  # a list of values makes one stage per value
MAX_POINTS = 10_000  # of a grid: they are listed in 0.4 s


class GridSettings(Settings):
    """Values to try along each axis; every combination is a point of the grid."""

    TRAINING_AXES: ClassVar[tuple[str, ...]] = ("epochs", "steps", "eval_crop")

    # Chosen on val among the crops of each trained point, without training again.
    eval_crop: Annotated[tuple[Crop, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        for axis, values in self.axes().items():
            if twice := repeated(values):
                raise ValueError(f"the axis {axis} names a value twice: {twice}")
        return self

    def axes(self) -> dict[str, tuple[float | str, ...]]:
        """Map each axis that is set to its values; training length and crop come last."""
        names = [name for name in type(self).model_fields if name not in self.TRAINING_AXES]
        return {
            axis: values
            for axis in (*names, *self.TRAINING_AXES)
            if (values := getattr(self, axis, None)) is not None
        }

    def resolved(self) -> JSON:
        """Dump the axes that are set."""
        return {axis: list(values) for axis, values in self.axes().items()}


def _check_rivals(grid: Settings, first: str, second: str) -> None:
    if getattr(grid, first) is not None and getattr(grid, second) is not None:
        raise ValueError(f"{first} and {second} set the same thing in two ways; keep one of them")


class TrainingGrid(GridSettings):
    """Axes of every method that trains. The axis `lr` may be written as `lrs` of the method."""

    lr: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    epochs: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    steps: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check_length(self) -> Self:
        _check_rivals(self, "epochs", "steps")
        return self


class DecayGrid(TrainingGrid):
    """Axes of methods with weight decay.

    Attributes:
        decay_ratio: weight decay times learning rate; the weight decay is ratio / lr.
    """

    weight_decay: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    decay_ratio: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check_decay(self) -> Self:
        _check_rivals(self, "weight_decay", "decay_ratio")
        return self


class HalvingSettings(Settings):
    """Successive halving.

    In the first rung all points train for 1 / factor^(rungs - 1) of the length. The best 1 / factor
    of them on val then train from the start for `factor` times as long, and so on. The points of
    the last rung train in full; one of them is chosen.
    """

    factor: Annotated[int, Field(ge=2)] = 3
    rungs: Annotated[int, Field(ge=2, le=20)] = 3


class Reduced(Settings):
    """Train a random subset of the grid, of `reduced` points: equal for all models."""

    reduced: Count
    seed: int = 0


class Halving(Settings):
    """Train the grid by successive halving."""

    halving: HalvingSettings


Policy = Literal["full"] | Reduced | Halving


class MethodSettings(Settings):
    """Settings of every transfer method.

    Attributes:
        NEEDS: role of the stage that the method starts from. None means it uses nothing of the
            source.
        NEEDS_BOXES: the method needs targets with boxes of objects. Others need targets without.
        RUNS_STAGE: the method has `run` for a whole stage, instead of `candidates`. So has every
            method whose settings are not `TransferSettings`.
        TRAINS_HEAD_ONLY: the backbone stays as it is, so that the method is cheap. Reports compare
            its accuracy with that of methods that train more.
        method: name of a folder in `harness/transfer/methods`. None means the method's label.
        per_class: training images of each class, nested draws; a list makes a stage of each value.
            Everything is fitted on these images. Val only chooses settings, also with `refit`.
        eval_crop: center crop, as a fraction of the shorter side.
        per_target: dataset -> settings that differ for it.
    """

    NEEDS: ClassVar[Role | None] = "model"
    NEEDS_BOXES: ClassVar[bool] = False
    RUNS_STAGE: ClassVar[bool] = False
    TRAINS_HEAD_ONLY: ClassVar[bool] = False

    method: str | None = None
    per_class: Count | tuple[Count, ...] | None = None
    eval_crop: Crop = 224 / 256
    grid: GridSettings = GridSettings()
    per_target: dict[str, JSON] = Field(default_factory=dict)

    def without_effect(self) -> dict[str, str]:
        """Settings that an axis of the grid sets."""
        axes = self.grid.axes().keys() & type(self).model_fields.keys()
        return super().without_effect() | {
            axis: "has no effect: the axis of the grid sets it; keep one of them" for axis in axes
        }

    def resolved(self) -> JSON:
        """Dump the settings of one stage, without the method's name and other targets."""
        settings = super().resolved()
        return {name: settings[name] for name in settings if name not in ("method", "per_target")}

    def for_target(self, dataset: str) -> Self:
        """Merge the settings that differ for a dataset.

        Raises:
            ValidationError: they do not fit the others.
        """
        own = self.per_target.get(dataset)
        if not own:
            return self
        settings = self.model_dump(mode="json", exclude_unset=True, exclude={"per_target"})
        return self.model_validate_json(json.dumps(merge_settings(settings, own)), strict=True)

    def num_passes(self) -> float:
        """Approximate passes over a target's images, of the whole search."""
        return 1.0


class TransferSchedule(ScheduleSettings):
    """Learning-rate curve of a transfer; the peak rates are the method's `lrs`."""

    def without_effect(self) -> dict[str, str]:
        """The learning rate."""
        reason = "has no effect: the learning rates of a transfer method are its `lrs`"
        return super().without_effect() | {"lr": reason}


class TransferSettings(MethodSettings, TrainSettings):
    """Settings of methods that train with SGD.

    Every point of the grid trains, val chooses one, and test is read once, with the chosen model.

    Attributes:
        TRAINS_TOGETHER: points of equal length train at once, on one forward pass of the backbone.
        steps: optimizer steps, in place of epochs; a list makes a stage of each value.
        train_crop: random: RandomResizedCrop. center: the largest central square, with which
            crop_scale and crop_ratio have no effect.
        lrs: peak learning rates of the grid.
        grid: further axes.
        refit: train the chosen point again on train and val together, and test that model.
        order: balanced draws each class equally often; an epoch has as many images as before.
        bn_stats: BatchNorm statistics of the source stay, or follow the target's images.
    """

    TRAINS_TOGETHER: ClassVar[bool] = False

    epochs: Count = 150
    steps: Count | tuple[Count, ...] | None = None
    batch_size: Count = 64
    train_crop: Literal["random", "center"] = "random"
    optimizer: TransferSchedule = TransferSchedule(
        schedule="step", step_epochs=50, weight_decay=5e-4, decay_norm_and_bias=True
    )
    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.001)
    grid: TrainingGrid = TrainingGrid()
    policy: Policy = "full"
    refit: bool = False
    order: Literal["random", "balanced"] = "random"
    bn_stats: BnStats = "update"

    def without_effect(self) -> dict[str, str]:
        """Settings of random crops, and of the length of training in other units."""
        reasons = super().without_effect()
        if self.train_crop == "center":
            reason = "has an effect with train_crop: random only"
            reasons |= {"crop_scale": reason, "crop_ratio": reason}
        if self.steps is not None or "steps" in self.grid.axes():
            reasons["epochs"] = (
                "has no effect: epochs and steps are two ways to set the length of training; "
                "keep one of them"
            )
        if "epochs" in self.grid.axes():
            reasons["steps"] = "has no effect: the axis epochs of the grid sets the length"
        if self.grid.lr is not None:
            reasons["lrs"] = "has no effect: `lrs` is short for `grid.lr`; keep one of them"
        return reasons

    def resolved(self) -> JSON:
        """Dump the settings of one stage; learning rates are always in `lrs`."""
        settings = super().resolved()
        if self.order == "random":  # left out, so that keys from before this setting stay valid
            settings.pop("order", None)
        settings["lrs"] = list(self.rates)
        settings["grid"].pop("lr", None)
        if self._sets_weight_decay:
            del settings["optimizer"]["weight_decay"]
        return settings

    @model_validator(mode="after")
    def _check_grid(self) -> Self:
        if twice := repeated(self.lrs):
            raise ValueError(f"lrs names a value twice: {twice}")
        if (
            self._sets_weight_decay
            and "optimizer" in self.model_fields_set
            and "weight_decay" in self.optimizer.model_fields_set
        ):
            raise ValueError("optimizer.weight_decay has no effect: an axis of the grid sets it")
        lengths = {axis: len(values) for axis, values in self.grid.axes().items()}
        lengths["lr"] = len(self.rates)
        if (count := prod(lengths.values())) > MAX_POINTS:
            raise ValueError(f"the grid has {too_many(count, 'points', lengths, MAX_POINTS)}")
        return self

    @property
    def _sets_weight_decay(self) -> bool:
        return bool({"weight_decay", "decay_ratio"} & self.grid.axes().keys())

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of the grid."""
        return self.grid.lr or self.lrs

    def num_passes(self) -> float:
        """Approximate passes over a target's images, of the whole search."""
        from harness.config import grid

        return grid.passes(self)


# Pairs of settings that set the same thing.
RIVALS = (
    ("epochs", "steps"),
    ("weight_decay", "decay_ratio"),
    ("lrs", "lr"),
    ("step_epochs", "step_at"),
)
STEP_SCHEDULE = ("step_epochs", "step_at", "step_factor")  # without effect on other schedules


def merge_settings(under: Mapping[str, Any], over: Mapping[str, Any]) -> JSON:
    """Merge settings of a method, as a recipe has them; mappings merge key by key.

    A setting of `under` is dropped if `over` sets the same thing in another way: steps replace
    epochs, an axis of the grid replaces the setting of its name, and another schedule replaces the
    settings of steps.
    """
    replaced = set(_names(over))
    replaced |= {name for pair in RIVALS if replaced & set(pair) for name in pair}
    optimizer = over.get("optimizer")
    if isinstance(optimizer, Mapping) and optimizer.get("schedule", "step") != "step":
        replaced |= set(STEP_SCHEDULE)

    def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> JSON:
        kept = {key: value for key, value in low.items() if key in high or key not in replaced}
        merged = {
            key: merge(value, {}) if key in ("grid", "optimizer") else value
            for key, value in kept.items()
        }
        for key, value in high.items():
            both = isinstance(value, Mapping) and isinstance(kept.get(key), Mapping)
            merged[key] = merge(kept[key], value) if both else value
        return merged

    return merge(under, over)


def completed(entry: Mapping[str, Any], model: type[MethodSettings]) -> JSON:
    """Take what a partial `optimizer` of a recipe leaves out from the method's default one.

    Args:
        entry: settings of a method, as a recipe has them.
        model: settings model of the method.
    """
    field = model.model_fields.get("optimizer")
    if field is None or not isinstance(entry.get("optimizer"), Mapping):
        return dict(entry)
    own = {key: entry[key] for key in ("optimizer", "grid") if key in entry}
    below = {"optimizer": field.default.model_dump(mode="json", exclude_unset=True)}
    return {**entry, "optimizer": merge_settings(below, own)["optimizer"]}


def _names(settings: Mapping[str, Any]) -> Iterator[str]:
    """Keys, with those of the grid and of the optimizer."""
    for key, value in settings.items():
        yield key
        if key in ("grid", "optimizer") and isinstance(value, Mapping):
            yield from value
