"""Record of a select stage. Imports no torch."""

from typing_extensions import TypedDict


class ClassScore(TypedDict):
    """Score of a class and its 95 % confidence interval. None means unknown."""

    score: float | None
    low_95: float | None
    high_95: float | None
    tie_break: float  # orders classes of equal score; higher is better


class SelectMetrics(TypedDict):
    """Metrics of a select stage."""

    method: str
    targets: list[str]  # targets whose train and val images were used
    seen_splits: list[str]  # splits of the targets that were used
    classes: dict[str, ClassScore] | None  # None means that images are scored, not classes
    num_scored: int  # number of scored classes or images
    num_models: int
    quantiles: list[float]  # quantiles of the scores: 0, 25, 50, 75 and 100 %
    digest: str  # sha256 of the scores
