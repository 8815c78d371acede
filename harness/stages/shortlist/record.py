"""Record of a shortlist stage. Imports no torch."""

from typing_extensions import TypedDict

from harness.runner.shortlist import RankedModel


class ShortlistMetrics(TypedDict):
    """Metrics of a shortlist stage."""

    by: str  # name of the score
    best: int  # number of models to choose
    chosen: list[str]  # models, best first
    ranking: list[RankedModel]
    left_out: dict[str, str]  # model -> reason
    num_missing: int  # number of scores that are missing because their stages failed
