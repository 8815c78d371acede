"""Record of a rank stage. Imports no torch."""

from typing_extensions import TypedDict


class RankMetrics(TypedDict):
    """Metrics of a rank stage."""

    classes: list[str]  # hardest first
    accuracy: dict[str, float]  # class -> fraction of its images that are classified correctly
    num_images: dict[str, int]  # class -> number of its images that were evaluated
    split: str  # images that were evaluated: train, val or held_out
    tie_break: str  # rule that orders classes of equal accuracy
    precision: str
