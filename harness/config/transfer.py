"""What a recipe may say of a transfer method. Imports no torch. Which of it a method takes: `harness/transfer/method.py`."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.config.base import Count, NotNegative, Positive, Settings
from harness.config.train import Parts, ScheduleSettings, TrainSettings

Whole = Annotated[int, Field(ge=0)]
Crop = Annotated[float, Field(gt=0, le=1)]


class GridSettings(Settings):
    """Values to try along each axis; every combination is a point of the grid. The axis `lr` may be written as `lrs`."""

    lr: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    weight_decay: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    decay_ratio: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = (
        None  # weight decay = ratio / lr
    )
    alpha: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    beta: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    low_lr_ratio: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    layer_decay: Annotated[tuple[Crop, ...], Field(min_length=1)] | None = None
    reinit_last: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = None
    train_from: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    epochs: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    steps: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    eval_crop: Annotated[tuple[Crop, ...], Field(min_length=1)] | None = (
        None  # chosen on val, without training again
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for axis, values in self.axes().items():
            if len(set(values)) != len(values):
                raise ValueError(f"the axis {axis} names a value twice: {list(values)}")
        for one, other in (("weight_decay", "decay_ratio"), ("epochs", "steps")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(
                    f"{one} and {other} are two ways to say one thing; keep one of them"
                )
        return self

    def axes(self) -> dict[str, tuple[float, ...]]:
        """Those that were given."""
        return {
            axis: values
            for axis in type(self).model_fields
            if (values := getattr(self, axis)) is not None
        }


class HalvingSettings(Settings):
    """Successive halving: all points train for a factor^(rungs - 1)-th of the length, the best on val, one of `factor`, for
    `factor` times as long, anew, and so on; the last rung trains in full and alone is chosen from."""

    factor: Annotated[int, Field(ge=2)] = 3
    rungs: Annotated[int, Field(ge=2)] = 3


class Reduced(Settings):
    """That many points of the grid, drawn by a seed of their own: the same for every model."""

    reduced: Count
    seed: int = 0


class Halving(Settings):
    halving: HalvingSettings


Policy = Literal["full"] | Reduced | Halving


class TransferSettings(TrainSettings):
    """One transfer method. The points of its grid train; val chooses; test is read once, with the chosen model."""

    method: str | None = None  # a file of harness/methods; None: as the method's label says
    epochs: Count = 150
    steps: Count | tuple[Count, ...] | None = (
        None  # of the optimizer, in place of epochs; a list: a stage for each
    )
    per_class: Count | tuple[Count, ...] | None = (
        None  # training images of each class, nested draws; a list: a stage for each
    )
    batch_size: Count = 64
    train_crop: Literal["random", "center"] = (
        "random"  # center: the middle square, whole (crop_scale, crop_ratio: no effect)
    )
    optimizer: ScheduleSettings = ScheduleSettings(
        lr=0.01, schedule="step", step_epochs=50, weight_decay=5e-4, decay_norm_and_bias=True
    )
    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.001)
    grid: GridSettings = GridSettings()  # further axes
    policy: Policy = "full"
    accumulate: Parts = 1
    refit: bool = (
        False  # train the chosen point once more, on train and val together, and test that one
    )
    bn_stats: Literal["frozen", "update"] | None = (
        None  # None: frozen for `fixed`, update for the others
    )
    bn_momentum: Annotated[float, Field(gt=0, le=1)] | Literal["kornblith"] | None = (
        None  # None: the model's own;
    )
    #                                         kornblith: min(10 / steps an epoch, 0.1)
    train_from: Count | None = (
        None  # `partial`: the first stage that trains; stages count from 0, the stem
    )
    reinit_last: Whole = 0  # blocks, from the end, that start from random weights like the head
    num_low: Whole = 0  # blocks, from the front, with the low learning rate
    low_lr_ratio: NotNegative = 1.0  # their learning rate over the head's
    high_lr_ratio: NotNegative = 1.0  # that of the other transferred blocks over the head's
    layer_decay: Crop = 1.0  # factor on the learning rate from each block to the one before it
    alpha: NotNegative = 0.1  # `l2sp`: pull of transferred weights towards where they started
    beta: NotNegative = 0.01  # `l2sp`: pull of all other weights towards zero
    start_groups: tuple[Literal["low", "high"], ...] = (
        "low",
        "high",
    )  # `l2sp`: the transferred blocks that alpha pulls
    lambdas: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = (
        None  # `logreg`: penalties; None: Kornblith's 45
    )
    per_target: dict[str, dict[str, Any]] = Field(
        default_factory=dict
    )  # dataset -> settings that differ for it

    @model_validator(mode="after")
    def _one_place_for_each(self) -> Self:
        said, axes = self.model_fields_set, self.grid.axes()
        if "lr" in self.optimizer.model_fields_set and "optimizer" in said:
            raise ValueError(
                "the learning rates of a transfer method are its `lrs`; optimizer.lr has no effect here"
            )
        if "lrs" in said and "lr" in axes:
            raise ValueError("`lrs` is short for `grid.lr`; keep one of them")
        if len(set(self.lrs)) != len(self.lrs):
            raise ValueError(f"lrs names a value twice: {list(self.lrs)}")
        if (
            {"weight_decay", "decay_ratio"} & axes.keys()
            and "optimizer" in said
            and "weight_decay" in self.optimizer.model_fields_set
        ):
            raise ValueError(
                "optimizer.weight_decay has no effect beside an axis of the grid that sets it"
            )
        for axis in axes.keys() & said:
            raise ValueError(
                f"`{axis}` has no effect beside the axis of the grid; keep one of them"
            )
        if len([name for name in ("epochs", "steps") if name in said or name in axes]) > 1:
            raise ValueError(
                "epochs and steps are two ways to say how long training is; keep one of them"
            )
        if self.train_crop == "center" and {"crop_scale", "crop_ratio"} & said:
            raise ValueError(
                "crop_scale and crop_ratio have an effect with train_crop: random only"
            )
        if self.num_low == 0 and ("low_lr_ratio" in said or "low_lr_ratio" in axes):
            raise ValueError(
                "low_lr_ratio has no effect without num_low, the number of blocks that it is for"
            )
        if len(set(self.start_groups)) != len(self.start_groups):
            raise ValueError(f"start_groups names a group twice: {list(self.start_groups)}")
        return self

    def for_target(self, dataset: str) -> "TransferSettings":
        """These settings, with those that differ for that dataset. Raises pydantic's ValidationError where they do not fit."""
        own = self.per_target.get(dataset)
        if not own:
            return self
        said = self.model_dump(mode="json", exclude_unset=True, exclude={"per_target"})
        return TransferSettings.model_validate_json(json.dumps(merged(said, own)), strict=True)

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of the grid."""
        return self.grid.lr or self.lrs


RIVALS = (
    ("epochs", "steps"),
    ("weight_decay", "decay_ratio"),
    ("lrs", "lr"),
    ("step_epochs", "step_at"),
)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method as a recipe says them, with others over them: mappings merge, and what is said in another way
    above (steps, where below there are epochs) is not said below."""
    said = _names(over)
    rivals = {
        other
        for names in RIVALS
        for name in names
        for other in names
        if name in said and other != name
    }
    rivals |= {name for name in said if name in GridSettings.model_fields}

    def laid(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in low.items() if key in high or key not in rivals}
        both = {
            key: laid(kept[key], value)
            if isinstance(value, Mapping) and isinstance(kept.get(key), Mapping)
            else value
            for key, value in high.items()
        }
        inner = {
            key: laid(value, {}) if key in ("grid", "optimizer") else value
            for key, value in kept.items()
        }
        return {**inner, **both}

    return laid(under, over)


def _names(settings: Mapping[str, Any]) -> set[str]:
    """Keys, with those of the grid and of the optimizer."""
    inner = (
        value
        for key, value in settings.items()
        if key in ("grid", "optimizer") and isinstance(value, Mapping)
    )
    return {*settings, *(name for one in inner for name in one)}
