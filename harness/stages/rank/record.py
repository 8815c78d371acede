"""Record of a rank stage. Imports no torch."""

from typing_extensions import TypedDict


class RankMetrics(TypedDict):
    """Metrics of a rank stage."""

    classes: list[str]  # hardest first
    accuracy: dict[str, float]  # class -> fraction of its images
    num_images: dict[str, int]  # class -> images
    split: str  # train, val or held_out
    tie_break: str
    precision: str
