"""Record of a score stage. Imports no torch."""

from typing import Any

from typing_extensions import TypedDict


class ScoreMetrics(TypedDict):
    """Metrics of a score stage."""

    scores: dict[str, float]  # name of a score or variant -> value
    details: dict[str, dict[str, Any]]  # name -> parameters of the computation, if it reports them
    failed: dict[str, str]  # name -> reason why the score cannot be computed
    split: str
    num_duplicates: int  # images whose features equal those of an earlier image
    num_images: int
    num_features: int
    num_source_classes: int | None  # None means that there are no probabilities
    num_classes: int  # number of the target's classes


class ScoreTiming(TypedDict):
    """Timing of a score stage."""

    seconds: dict[str, float]  # name of a score -> seconds, with its variants
