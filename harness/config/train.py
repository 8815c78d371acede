"""What a recipe may say of training: schedules, pretraining, and what fine-tuning shares with it. Imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from harness.config.attack import AttackSettings
from harness.config.base import JSON, Count, Fraction, NotNegative, Positive, Settings

Parts = (
    Count | Literal["auto"]
)  # of a batch, one after another, each with its own statistics; `auto`: the fewest that fit


class ScheduleSettings(Settings):
    """SGD with momentum and one learning-rate curve, per step, from 0 to the end of training."""

    lr: Positive = 0.5
    schedule: Literal["cosine", "cyclic", "step", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0  # linear from 0 (`cyclic`: the epoch of the peak)
    step_epochs: Count | None = (
        None  # `step`: every so many epochs the rate is multiplied by step_factor
    )
    step_at: Annotated[tuple[Fraction, ...], Field(min_length=1)] | None = (
        None  # `step`: or at these parts of training
    )
    step_factor: Positive = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-5
    decay_norm_and_bias: bool = (
        False  # False: weight decay on weights of convolutions and linear layers only
    )

    @model_validator(mode="after")
    def _only_settings_with_effect(self) -> Self:
        if self.schedule == "step" and (self.step_epochs is None) == (self.step_at is None):
            raise ValueError("schedule: step needs step_epochs or step_at, one of them")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0")
        return self

    def without_effect(self) -> dict[str, str]:
        """Settings of the step schedule, with another schedule."""
        if self.schedule == "step":
            return {}
        reason = "has an effect with schedule: step only"
        return dict.fromkeys(("step_epochs", "step_at", "step_factor"), reason)


class TrainSettings(Settings):
    """What pretraining and fine-tuning share."""

    epochs: Count = 16
    batch_size: Count = 256
    resolution: Count = 224  # pixels a side, of training
    eval_resolution: Count | None = None  # None: as training
    eval_crop: Annotated[float, Field(gt=0, le=1)] = (
        224 / 256
    )  # centre crop: share of the shorter side
    crop_scale: tuple[Positive, Positive] = (0.08, 1.0)  # RandomResizedCrop: share of the area
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)  # RandomResizedCrop: aspect ratio
    horizontal_flip: bool = True
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    flip_tta: bool = (
        False  # evaluate with the mean of the logits of each image and its mirror image
    )
    optimizer: ScheduleSettings = ScheduleSettings()
    # Of training and of every evaluation of what was trained. `evaluate` and `rank` take that of `pretrain`, a transfer that of
    # its method. auto: bf16 on a GPU that computes it natively, else float32; on a CPU always float32.
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"


class ProgressiveSettings(Settings):
    """Smaller images first, as ffcv-imagenet: `start_resolution` up to the first epoch of `ramp`, the full `resolution` from
    its second on, a line in between that is rounded to a `multiple`. Epochs count from 0."""

    start_resolution: Count  # pixels a side
    ramp: tuple[Annotated[int, Field(ge=0)], Count]  # epochs
    multiple: Count = 32  # pixels

    def resolution(self, epoch: int, full: int) -> int:
        """Pixels a side in that epoch."""
        first, last = self.ramp
        share = min(1.0, max(0.0, (epoch - first) / (last - first)))
        return (
            round((self.start_resolution + share * (full - self.start_resolution)) / self.multiple)
            * self.multiple
        )


class PretrainSettings(TrainSettings):
    """Training from random weights on a source subset; adversarial where the axis `eps` is above 0.

    In a recipe, `preset: NAME` stands for a published set of these (`harness/config/pretrain_presets.py`); other keys go over it.
    """

    attack: AttackSettings = AttackSettings()
    progressive: ProgressiveSettings | None = None  # None: every epoch at `resolution`
    blur_pool: bool = False  # a 3x3 binomial filter before strided convolutions (Zhang 2019)
    batch_norm_scale: bool = True  # False: every BatchNorm's scale is a constant 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # share of the features dropped before the head
    )
    aux_head: bool = (
        False  # a second head half-way, 0.4 of its loss, dropped behind training (GoogLeNet)
    )
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = (
        None  # per step; the averaged weights are the model's
    )
    accumulate: Parts = 1
    compile: Literal["off", "auto", "on"] = (
        "off"  # torch.compile; `auto`: where a measurement at the start says it pays
    )
    eval_every: Count | None = (
        None  # passes over the data between two evaluations on val; None: at the end only
    )
    sync_batch_norm: bool = (
        False  # BatchNorm over the whole batch where several GPUs share it; False: over each one's
    )
    channels: tuple[Count, ...] | None = (
        None  # widths of the stages, for archs that let one choose (resnet10)
    )
    order: Literal["random", "quasi_random"] = (
        "random"  # quasi_random: for betons larger than memory, some pages at a time
    )
    length: Literal["equal_epochs", "equal_steps"] = (
        "equal_epochs"  # what subsets share: epochs, or the steps of `all`
    )

    @model_validator(mode="after")
    def _free_takes_whole_batches(self) -> Self:
        if self.attack.method == "free" and self.accumulate != 1:
            raise ValueError(
                "accumulate does not go with attack.method: free, which keeps one noise for a whole batch"
            )
        return self

    @model_validator(mode="after")
    def _aux_head_as_it_is(self) -> Self:
        if self.aux_head and self.compile != "off":
            raise ValueError("aux_head does not go with compile")
        return self

    @model_validator(mode="after")
    def _ramp_within_training(self) -> Self:
        if (progressive := self.progressive) is None:
            return self
        first, last = progressive.ramp
        if not first < last < self.epochs:
            raise ValueError(
                f"progressive.ramp is {list(progressive.ramp)}: it must rise, and end before epoch {self.epochs}"
            )
        if not progressive.start_resolution < self.resolution:
            raise ValueError(
                f"progressive.start_resolution is {progressive.start_resolution}: it must be below `resolution`, "
                f"which is {self.resolution}"
            )
        for name, side in (
            ("progressive.start_resolution", progressive.start_resolution),
            ("resolution", self.resolution),
        ):
            if side % progressive.multiple:
                raise ValueError(
                    f"{name} is {side}, which is no multiple of progressive.multiple, {progressive.multiple}"
                )
        return self

    def resolved_for(self, *, attacked: bool, all_classes: bool) -> JSON:
        """Dump every setting that has an effect on one model.

        Args:
            attacked: training is adversarial.
            all_classes: the model trains on the whole source, where an equal number of epochs and an
                equal number of steps are the same.
        """
        settings = self.resolved()
        if not attacked:
            del settings["attack"]
        if all_classes:
            del settings["length"]
        return settings

    def resolution_at(self, epoch: int) -> int:
        """Pixels a side of training in that epoch, counted from 0."""
        return (
            self.progressive.resolution(epoch, self.resolution)
            if self.progressive
            else self.resolution
        )
