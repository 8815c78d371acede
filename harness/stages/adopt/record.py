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
    eps: float  # of adversarial training, in [0, 1] pixel units
    resolution: int  # pixels a side
    eval_crop: float
    interpolation: NotRequired[str]  # of the resize; absent means area
    flops: float | None  # of a forward pass of one image
    mean: list[float]
    std: list[float]
    imagenet_top1: float | None  # published; None means unknown
    imagenet_top5: float | None
    licence: str | None
    # Kind of training. None means unknown; absent in results of earlier versions.
    training: NotRequired[TrainingKind | None]
    weights: str | None  # file or name of the weights
    sha256: str | None
