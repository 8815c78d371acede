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
FANNED_OUT = ("per_class", "steps")  # settings whose lists make one stage per value
MAX_POINTS = 10_000  # points of a grid; listing them takes 0.4 s


class GridSettings(Settings):
    """Values to try along each axis; every combination is a point of the grid.

    Attributes:
        eval_crop: center crops. Each trained point is evaluated on val with every crop, without
            training again.
    """

    TRAINING_AXES: ClassVar[tuple[str, ...]] = ("epochs", "steps", "eval_crop")

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
    """Axes of every method that trains. The axis `lr` may also be given as the setting `lrs`.

    Attributes:
        lr: peak learning rates.
        epochs: lengths of training in epochs.
        steps: lengths of training in optimizer steps.
    """

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
        weight_decay: factors of the L2 penalty.
        decay_ratio: weight decay times learning rate; sets the weight decay to decay_ratio / lr.
    """

    weight_decay: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    decay_ratio: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check_decay(self) -> Self:
        _check_rivals(self, "weight_decay", "decay_ratio")
        return self


class HalvingSettings(Settings):
    """Successive halving.

    In the first rung all points train for 1 / factor^(rungs - 1) of the full length. The fraction
    1 / factor that is best on val then trains again from the start, `factor` times as long, and so
    on. In the last rung points train for the full length, and val chooses one of them.

    Attributes:
        factor: the fraction 1 / factor of the points survives each rung.
        rungs: number of rungs.
    """

    factor: Annotated[int, Field(ge=2)] = 3
    rungs: Annotated[int, Field(ge=2, le=20)] = 3


class Reduced(Settings):
    """Train `reduced` random points of the grid; the points are the same for all models.

    Attributes:
        reduced: number of points.
        seed: seed of the choice.
    """

    reduced: Count
    seed: int = 0


class Halving(Settings):
    """Train the grid by successive halving.

    Attributes:
        halving: settings of the halving.
    """

    halving: HalvingSettings


Policy = Literal["full"] | Reduced | Halving


class MethodSettings(Settings):
    """Settings of every transfer method.

    Attributes:
        NEEDS: what the method starts from: the source model, or features that it extracted. None
            means the method does not use the source model.
        NEEDS_BOXES: the method needs targets with boxes of objects. All other methods need targets
            without boxes.
        RUNS_STAGE: the method's module has `run` for a whole stage, instead of `candidates`. So has
            every method whose settings are not `TransferSettings`.
        TRAINS_HEAD_ONLY: the method does not change the backbone, so it is cheap. Reports compare
            its accuracy with the accuracy of methods that train more.
        method: name of a folder in `harness/transfer/methods`. None means the method's label.
        per_class: number of training images of each class; larger draws contain smaller ones. None
            means all. A list makes a stage of each value. Everything is fitted on these images. Val
            only chooses settings, even with `refit`.
        eval_crop: center crop, as a fraction of the shorter side.
        grid: axes of hyper-parameters to search.
        per_target: dataset -> settings that differ for this dataset.
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
        """A setting has no effect if an axis of the grid sets it."""
        axes = self.grid.axes().keys() & type(self).model_fields.keys()
        return super().without_effect() | {
            axis: "has no effect: the axis of the grid sets it; keep one of them" for axis in axes
        }

    def resolved(self) -> JSON:
        """Dump the settings of one stage, without the method's name and `per_target`."""
        settings = super().resolved()
        return {name: settings[name] for name in settings if name not in ("method", "per_target")}

    def for_target(self, dataset: str) -> Self:
        """Return the settings for a dataset, with its entry of `per_target`.

        Raises:
            ValidationError: the entry does not fit the other settings.
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
        """The learning rate has no effect, because `lrs` sets it."""
        reason = "has no effect: the learning rates of a transfer method are its `lrs`"
        return super().without_effect() | {"lr": reason}


class TransferSettings(MethodSettings, TrainSettings):
    """Settings of methods that train with SGD.

    Points of the grid are trained, the best on val is chosen, and test is evaluated once, with the
    chosen model.

    Attributes:
        TRAINS_TOGETHER: points of equal length train at once and share the backbone's forward pass.
        steps: optimizer steps, instead of epochs (None); a list makes a stage of each value.
        train_crop: random: RandomResizedCrop. center: the largest central square, with which
            crop_scale and crop_ratio have no effect.
        lrs: peak learning rates of the grid.
        grid: further axes of the grid.
        policy: points of the grid that are trained: all (full), or as in `Reduced` or `Halving`.
        refit: train the chosen point again on train and val together, and test that model.
        order: balanced draws each class equally often; the number of images per epoch stays the
            same.
        bn_stats: keep the BatchNorm statistics of the source, or update them on the target.
        keep_model: save the tested model as model.pt in the stage's folder, for `harness export`.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = TrainSettings.ADDED_LATER | {"order", "keep_model"}
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
    keep_model: bool = False

    def without_effect(self) -> dict[str, str]:
        """Add settings of crops, length of training and rates that other settings replace."""
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
        """Dump the settings of one stage. Learning rates are in `lrs`, also if `grid` sets them."""
        settings = super().resolved()
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


# Pairs of settings that exclude each other, because both set the same quantity.
RIVALS = (
    ("epochs", "steps"),
    ("weight_decay", "decay_ratio"),
    ("lrs", "lr"),
    ("step_epochs", "step_at"),
)
STEP_SCHEDULE = ("step_epochs", "step_at", "step_factor")  # no effect on other schedules


def merge_settings(under: Mapping[str, Any], over: Mapping[str, Any]) -> JSON:
    """Merge `over` over `under`: plain settings of a method. Mappings merge key by key.

    A setting of `under` is dropped if `over` replaces it by another setting: `steps` replaces
    `epochs`, an axis of the grid replaces the setting with its name, and another schedule replaces
    the settings of the step schedule.
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
    """Complete a partial `optimizer` of a recipe with values of the method's default optimizer.

    Args:
        entry: plain settings of a method.
        model: settings model of the method.
    """
    field = model.model_fields.get("optimizer")
    if field is None or not isinstance(entry.get("optimizer"), Mapping):
        return dict(entry)
    own = {key: entry[key] for key in ("optimizer", "grid") if key in entry}
    below = {"optimizer": field.default.model_dump(mode="json", exclude_unset=True)}
    return {**entry, "optimizer": merge_settings(below, own)["optimizer"]}


def _names(settings: Mapping[str, Any]) -> Iterator[str]:
    """Iterate over the keys of the settings, of their grid and of their optimizer."""
    for key, value in settings.items():
        yield key
        if key in ("grid", "optimizer") and isinstance(value, Mapping):
            yield from value
