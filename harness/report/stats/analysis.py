"""Everything that is worked out from the rows, once, for the sentences, tables and figures to share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.report.data.rows import AccuracyRow, ScoreRow, Source, TransferRow
from harness.report.stats import leaderboard as board
from harness.report.stats import predictors
from harness.report.stats.comparisons import (
    AgainstScratch,
    Comparison,
    against_scratch,
    comparisons,
)
from harness.report.stats.effects import Effect, effects
from harness.report.stats.image_tests import ImageTest, image_tests


@dataclass(frozen=True)
class Analysis:
    names: dict[Source, str]  # of the models
    effects: list[Effect]
    comparisons: list[Comparison]
    against_scratch: list[AgainstScratch]
    image_tests: list[ImageTest]
    boards: dict[str, board.Board]  # by method
    standings: dict[str, list[board.Standing]]  # by method, those with several models
    associations: list[board.Association]
    predictor_rows: list[predictors.PredictorRow]
    powers: list[predictors.Power]


def analyse(
    accuracy: Sequence[AccuracyRow],
    transfer: Sequence[TransferRow],
    scores: Sequence[ScoreRow],
    predictions: Mapping[str, Path],
) -> Analysis:
    """predictions: key of a transfer -> the file of its answers, where there is one."""
    names = board.model_names([*transfer, *scores])
    of_methods = board.boards(transfer, names)
    rows = predictors.predictor_rows(scores, of_methods)
    return Analysis(
        names=names,
        effects=effects(accuracy, transfer),
        comparisons=comparisons(transfer),
        against_scratch=against_scratch(transfer, names),
        image_tests=image_tests(transfer, predictions, names),
        boards=of_methods,
        standings={
            method: found for method, one in of_methods.items() if (found := board.standings(one))
        },
        associations=[goes for one in of_methods.values() if (goes := board.association(one))],
        predictor_rows=rows,
        powers=predictors.powers(rows),
    )
