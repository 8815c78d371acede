"""Record of a features stage. Imports no torch."""

from typing import NotRequired

from typing_extensions import TypedDict


class FeatureSplit(TypedDict):
    """The file of one split."""

    file: str  # in the stage's folder
    bytes: int
    num_images: int


class FeaturesMetrics(TypedDict):
    """Metrics of a features stage."""

    splits: dict[str, FeatureSplit]
    classes: list[str]  # of the target
    num_features: int
    num_source_classes: int | None  # None means there are no probabilities
    has_probs: bool
    resolution: int  # pixels a side
    eval_crop: float
    interpolation: NotRequired[str]  # of the resize; absent means area
    precision: str


class FeaturesTiming(TypedDict):
    """Timing of a features stage."""

    extract_s: float
    img_per_s: float
