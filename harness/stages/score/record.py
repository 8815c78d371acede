"""Record of a score stage. Imports no torch."""

from typing import Any

from typing_extensions import TypedDict


class ScoreMetrics(TypedDict):
    """Metrics of a score stage."""

    scores: dict[str, float]  # name, or name of a variant -> score
    details: dict[str, dict[str, Any]]  # of scores that report more
    failed: dict[str, str]  # name -> why it cannot be computed
    split: str
    num_duplicates: int  # images whose features equal those of an earlier image
    num_images: int
    num_features: int
    num_source_classes: int | None  # None means the source gives no probabilities
    num_classes: int  # of the target


class ScoreTiming(TypedDict):
    """Timing of a score stage."""

    seconds: dict[str, float]  # by score
