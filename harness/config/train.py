"""Settings of training: schedules, pretraining, and what fine-tuning shares with it.

Imports no torch.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.config.attack import AttackSettings
from harness.config.base import JSON, Count, Fraction, NotNegative, Positive, Settings
from loaders.augmentations import Augmentations
from loaders.interpolation import Interpolation

# Number of micro-batches per batch. BatchNorm uses the statistics of each micro-batch. "auto": the
# smallest number that fits in memory.
Parts = Count | Literal["auto"]


class ScheduleSettings(Settings):
    """SGD with momentum, and a learning-rate curve that is set per step.

    Attributes:
        lr: peak learning rate.
        schedule: curve of the learning rate after the warmup. cyclic: a linear fall.
        warmup_epochs: epochs of linear warmup from 0. For `cyclic`: the epoch with the peak rate.
        step_epochs: for `step`: epochs between two multiplications by step_factor.
        step_at: for `step`: fractions of training at which the rate is multiplied, instead of
            step_epochs.
        step_factor: for `step`: the factor.
        momentum: momentum of SGD.
        nesterov: use Nesterov's momentum.
        weight_decay: factor of the L2 penalty.
        decay_norm_and_bias: weight decay also applies to norms and biases. False: it applies only
            to the weights of convolutions and linear layers.
    """

    lr: Positive = 0.5
    schedule: Literal["cosine", "cyclic", "step", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0
    step_epochs: Count | None = None
    step_at: Annotated[tuple[Fraction, ...], Field(min_length=1)] | None = None
    step_factor: Positive = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-5
    decay_norm_and_bias: bool = False

    @model_validator(mode="after")
    def _check_conflicts(self) -> Self:
        if self.schedule == "step" and (self.step_epochs is None) == (self.step_at is None):
            raise ValueError("schedule: step needs either step_epochs or step_at")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0")
        return self

    def without_effect(self) -> dict[str, str]:
        """Settings of the step schedule have no effect on other schedules."""
        if self.schedule == "step":
            return {}
        reason = "has an effect with schedule: step only"
        return dict.fromkeys(("step_epochs", "step_at", "step_factor"), reason)


class TrainSettings(Settings):
    """Settings that pretraining and fine-tuning share.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step, of all processes together.
        resolution: pixels per side, in training.
        eval_resolution: pixels per side, in evaluation. None means as in training.
        eval_crop: center crop of evaluation, as a fraction of the shorter side.
        crop_scale: RandomResizedCrop: range of the area, as a fraction of the image's area.
        crop_ratio: RandomResizedCrop: range of the aspect ratio.
        horizontal_flip: mirror half of the training images.
        augment: augmentations after crop and flip, in training: a preset, or a mapping. Attacks
            start from augmented images.
        interpolation: filter of every resize, in training and evaluation. auto: the filter of
            published weights, or area for models that are trained here.
        label_smoothing: fraction of the target probability that is spread over all classes.
        flip_tta: evaluate with the mean of the logits of each image and its mirror image.
        optimizer: SGD and its learning rates.
        precision: precision of training, and of every evaluation of the trained model. `evaluate`
            and `rank` use the precision of `pretrain`; a transfer uses the precision of its method.
            auto: bf16 on a GPU that computes bf16 natively, float32 otherwise and on a CPU.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"augment"})

    epochs: Count = 16
    batch_size: Count = 256
    resolution: Count = 224
    eval_resolution: Count | None = None
    eval_crop: Annotated[float, Field(gt=0, le=1)] = 224 / 256
    crop_scale: tuple[Positive, Positive] = (0.08, 1.0)
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    horizontal_flip: bool = True
    augment: Augmentations | None = None
    interpolation: Interpolation | Literal["auto"] = "auto"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    flip_tta: bool = False
    optimizer: ScheduleSettings = ScheduleSettings()
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"

    def resolved(self) -> JSON:
        """Dump every setting that has an effect; of `augment`, only augmentations that are set."""
        settings = super().resolved()
        if self.augment is not None:
            settings["augment"] = self.augment.model_dump(mode="json", exclude_none=True)
        return settings


class ProgressiveSettings(Settings):
    """Progressive resizing, as in ffcv-imagenet.

    Training uses `start_resolution` up to the first epoch of `ramp`, and the full `resolution` from
    its last epoch. In between, the resolution rises linearly and is rounded to a multiple of
    `multiple`.

    Attributes:
        start_resolution: pixels per side in the first epochs.
        ramp: first and last epoch of the rise, counted from 0.
        multiple: every resolution is a multiple of this number of pixels.
    """

    start_resolution: Count
    ramp: tuple[Annotated[int, Field(ge=0)], Count]
    multiple: Count = 32

    def resolution(self, epoch: int, full: int) -> int:
        """Pixels per side in an epoch."""
        first, last = self.ramp
        fraction = min(1.0, max(0.0, (epoch - first) / (last - first)))
        return (
            round(
                (self.start_resolution + fraction * (full - self.start_resolution)) / self.multiple
            )
            * self.multiple
        )


class PretrainSettings(TrainSettings):
    """Training from random weights on a source subset; adversarial if the axis `eps` is above 0.

    In a recipe, `preset: NAME` sets published values (`harness/config/pretrain_presets.py`); other
    keys override them.

    Attributes:
        attack: attack of adversarial training; no effect on clean models.
        progressive: smaller images in the first epochs. None means every epoch uses `resolution`.
        blur_pool: filter with a 3x3 binomial kernel before strided convolutions (Zhang 2019).
        batch_norm_scale: False: the scale of every BatchNorm is a constant 1.
        dropout: fraction of the features dropped before the head.
        aux_head: train a second head in the middle of the network, with 0.4 of its loss; it is
            dropped after training (GoogLeNet).
        ema_decay: decay per step of an average of the weights, which is then the model. None keeps
            no average.
        accumulate: micro-batches per batch; "auto" is the smallest number that fits in memory.
            BatchNorm uses the statistics of each micro-batch.
        compile: torch.compile. auto: use it if a measurement at the start shows a speedup.
        eval_every: epochs between two evaluations on val. None means evaluate at the end only.
        sync_batch_norm: if several GPUs share a batch, BatchNorm uses the statistics of the whole
            batch. False: it uses those of each GPU's part.
        channels: widths of the network's stages, for architectures with configurable widths
            (resnet10). None means the architecture's own.
        order: order of images. quasi_random reads a few pages at a time, for `.beton` files larger
            than memory. balanced draws each class equally often; the number of images per epoch
            stays the same.
        length: what is equal in the trainings on all subsets: the number of epochs, or the number
            of steps (that of a training on the whole source).
    """

    attack: AttackSettings = AttackSettings()
    progressive: ProgressiveSettings | None = None
    blur_pool: bool = False
    batch_norm_scale: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    aux_head: bool = False
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    accumulate: Parts = 1
    compile: Literal["off", "auto", "on"] = "off"
    eval_every: Count | None = None
    sync_batch_norm: bool = False
    channels: tuple[Count, ...] | None = None
    order: Literal["random", "quasi_random", "balanced"] = "random"
    length: Literal["equal_epochs", "equal_steps"] = "equal_epochs"

    @model_validator(mode="after")
    def _check_free_training(self) -> Self:
        if self.attack.method == "free" and self.accumulate != 1:
            raise ValueError(
                "accumulate cannot be used with attack.method: free, which keeps one noise per "
                "batch"
            )
        return self

    @model_validator(mode="after")
    def _check_aux_head(self) -> Self:
        if self.aux_head and self.compile != "off":
            raise ValueError("aux_head cannot be used with compile")
        return self

    @model_validator(mode="after")
    def _check_ramp(self) -> Self:
        if (progressive := self.progressive) is None:
            return self
        first, last = progressive.ramp
        if not first < last < self.epochs:
            raise ValueError(
                f"progressive.ramp is {list(progressive.ramp)}: it must rise, and end before "
                f"epoch {self.epochs}"
            )
        if not progressive.start_resolution < self.resolution:
            raise ValueError(
                f"progressive.start_resolution is {progressive.start_resolution}: it must be below "
                f"`resolution`, which is {self.resolution}"
            )
        for name, side in (
            ("progressive.start_resolution", progressive.start_resolution),
            ("resolution", self.resolution),
        ):
            if side % progressive.multiple:
                raise ValueError(
                    f"{name} is {side}, which is not a multiple of progressive.multiple, "
                    f"{progressive.multiple}"
                )
        return self

    def resolved_for(self, *, attacked: bool, all_images: bool) -> JSON:
        """Dump every setting that has an effect on one model.

        Args:
            attacked: training is adversarial.
            all_images: the model trains on all images of the source, possibly with coarser labels.
                `length` then has no effect.
        """
        settings = self.resolved()
        if not attacked:
            del settings["attack"]
        if all_images:
            del settings["length"]
        return settings

    def resolution_at(self, epoch: int) -> int:
        """Pixels per side of training in an epoch, counted from 0."""
        return (
            self.progressive.resolution(epoch, self.resolution)
            if self.progressive
            else self.resolution
        )
