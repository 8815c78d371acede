"""Settings of detection. Imports no torch."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.config.base import Count, Positive
from harness.config.transfer import BnStats, TransferSchedule, TransferSettings, Whole

# Default sides of square anchors in pixels of the resized image: the paper's for c4, and one for
# each level of the pyramid for fpn.
ANCHORS = {"c4": (128.0, 256.0, 512.0), "fpn": (32.0, 64.0, 128.0, 256.0, 512.0)}
IDLE = (
    "resolution",
    "eval_resolution",
    "eval_crop",
    "crop_scale",
    "crop_ratio",
    "train_crop",
    "augment",
    "interpolation",
    "label_smoothing",
    "flip_tta",
    "order",
    "per_class",
    "keep_model",
)


class DetectionSettings(TransferSettings):
    """Faster R-CNN (Ren et al. 2015) on a pretrained ResNet.

    The paper's learning rate is 0.001 for two images. The default `lrs` are 0.008, the same rate in
    proportion to 16 images, and 0.02, a usual rate for 16 images. The learning rate falls after
    three quarters of training (60,000 of 80,000 steps in the paper), and training takes 16 epochs
    (80,000 images drawn from 5,011).

    Attributes:
        neck: c4: regions are cut from the output of the third stage, and the fourth stage is the
            head of each region. fpn: a feature pyramid and two linear layers.
        short_side: shorter side of the resized image, in pixels.
        long_side: limit of the longer side, in pixels. An image at this limit has a shorter side
            below `short_side`.
        anchors: sides of square anchors in pixels of the resized image; each is also used with
            aspect ratios 1:2 and 2:1. None means 128, 256 and 512 for c4, and 32 to 512 for fpn.
        regions_per_image: number of proposals per image that the heads of the regions train on.
        train_from: first stage of the network that trains; the stem is stage 0.
        bn_stats: frozen: BatchNorm keeps its statistics, scales and shifts.
        refit: train again with the chosen learning rate on train and val (VOC's trainval).
    """

    NEEDS_BOXES: ClassVar[bool] = True
    RUNS_STAGE: ClassVar[bool] = True

    epochs: Count = 16
    batch_size: Count = 16
    optimizer: TransferSchedule = TransferSchedule(
        schedule="step", step_at=(0.75,), warmup_epochs=0.3, weight_decay=5e-4
    )
    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.02, 0.008)
    refit: bool = True
    bn_stats: BnStats = "frozen"
    neck: Literal["c4", "fpn"] = "c4"
    short_side: Count = 600
    long_side: Count = 1000
    anchors: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    regions_per_image: Count = 128
    train_from: Annotated[Whole, Field(le=4)] = 2

    @property
    def anchor_sides(self) -> tuple[float, ...]:
        """Sides of square anchors in pixels of the resized image, with defaults filled in."""
        return self.anchors or ANCHORS[self.neck]

    def without_effect(self) -> dict[str, str]:
        """Map fields without effect to reasons: those in IDLE are for classification only."""
        reason = "has no effect on detection, which trains on whole images with boxes"
        return super().without_effect() | dict.fromkeys(IDLE, reason)

    @model_validator(mode="after")
    def _check_detection(self) -> Self:
        if self.grid.eval_crop is not None:
            raise ValueError("grid.eval_crop has no effect on detection, which sees whole images")
        if self.short_side > self.long_side:
            raise ValueError(
                f"short_side is {self.short_side}: it must not be above long_side, {self.long_side}"
            )
        if self.neck == "fpn" and len(self.anchor_sides) != len(ANCHORS["fpn"]):
            raise ValueError(
                f"anchors has {len(self.anchor_sides)} values: the pyramid has "
                f"{len(ANCHORS['fpn'])} levels, with one each"
            )
        return self


SETTINGS = DetectionSettings
