"""Record of a features stage. Imports no torch."""

from typing import NotRequired

from typing_extensions import TypedDict


class FeatureSplit(TypedDict):
    """File with the features of one split."""

    file: str  # name of the file in the stage's folder
    bytes: int
    num_images: int


class FeaturesMetrics(TypedDict):
    """Metrics of a features stage."""

    splits: dict[str, FeatureSplit]
    classes: list[str]  # classes of the target, in label order
    num_features: int
    num_source_classes: int | None  # None means that there are no probabilities
    has_probs: bool
    resolution: int  # side of the images, in pixels
    eval_crop: float
    interpolation: NotRequired[str]  # filter of the resize; absent means area
    precision: str


class FeaturesTiming(TypedDict):
    """Timing of a features stage."""

    extract_s: float
    img_per_s: float
