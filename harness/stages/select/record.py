"""Record of a select stage. Imports no torch."""

from typing_extensions import TypedDict


class ClassScore(TypedDict):
    """Scores of a class. None means unknown."""

    score: float | None
    low_95: float | None
    high_95: float | None
    tie_break: float


class SelectMetrics(TypedDict):
    """Metrics of a select stage."""

    method: str
    targets: list[str]  # whose train and val images were used
    seen_splits: list[str]  # of the targets
    classes: dict[str, ClassScore] | None  # None means images are scored
    num_scored: int  # classes or images
    num_models: int
    quantiles: list[float]  # 0, 25, 50, 75 and 100 % of the scores
    digest: str  # sha256 of the scores
