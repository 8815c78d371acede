"""Record of an adopt stage. Imports no torch."""

from typing import NotRequired

from typing_extensions import TypedDict

from harness.config.training_kind import TrainingKind


class AdoptMetrics(TypedDict):
    """Metrics of an adopt stage."""

    arch: str
    num_parameters: int
    num_backbone_parameters: int
    feature_dim: int
    num_classes: int | None  # None means the checkpoint has no usable head
    eps: float  # radius of the adversarial training, in units of [0, 1] pixels; 0 if clean
    resolution: int  # side of the images, in pixels
    eval_crop: float  # side of the center crop, as a fraction of the shorter side
    interpolation: NotRequired[str]  # filter of the resize; absent means area
    flops: float | None  # operations of a forward pass of one image; None means unknown
    mean: list[float]  # per channel, of pixels in [0, 1]
    std: list[float]
    imagenet_top1: float | None  # published accuracy, in [0, 1]; None means unknown
    imagenet_top5: float | None
    licence: str | None
    # Kind of training. None means unknown. Results of earlier versions do not have this field.
    training: NotRequired[TrainingKind | None]
    weights: str | None  # file or published name of the weights
    sha256: str | None
