"""Compute all statistics of a report once; sentences, tables and figures share them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.report.data.records import AccuracyRow, ModelId, ScoreRow, TransferRow
from harness.report.stats.architectures import (
    Association,
    SignRow,
    association,
    comparable,
    sign_rows,
)
from harness.report.stats.comparisons import (
    Comparison,
    ScratchComparison,
    against_scratch,
    comparisons,
)
from harness.report.stats.convergence import Convergence, Speedup, convergences, speedups
from harness.report.stats.effects import Effect, effects
from harness.report.stats.image_tests import ImageTest, image_tests
from harness.report.stats.leaderboard import (
    RankedModel,
    ScoreMatrix,
    SeedMedian,
    TopCount,
    model_names,
    ranking,
    score_matrices,
    scratch_matrices,
    seed_medians,
    top_counts,
)
from harness.report.stats.predictors import (
    PredictorFit,
    PredictorRow,
    predictor_fits,
    predictor_rows,
)
from harness.report.stats.training_kinds import TrainingGroup, training_groups


@dataclass(frozen=True)
class Analysis:
    """Statistics of a report.

    Attributes:
        names: model -> its name in this report.
        matrices: method -> scores of all models on all targets.
        rankings: method -> its models, best first; only methods for which `ranking` ranks models.
        compared: method -> scores of the architectures that its association (the correlation with
            source accuracy) is computed on.
    """

    names: dict[ModelId, str]
    effects: list[Effect]
    comparisons: list[Comparison]
    against_scratch: list[ScratchComparison]
    image_tests: list[ImageTest]
    matrices: dict[str, ScoreMatrix]
    rankings: dict[str, list[RankedModel]]
    associations: list[Association]
    compared: dict[str, ScoreMatrix]
    signs: list[SignRow]
    convergences: list[Convergence]
    speedups: list[Speedup]
    top_counts: list[TopCount]
    training_groups: list[TrainingGroup]
    medians: list[SeedMedian]
    predictor_rows: list[PredictorRow]
    predictor_fits: list[PredictorFit]


def analyze(
    accuracy: Sequence[AccuracyRow],
    transfer: Sequence[TransferRow],
    scores: Sequence[ScoreRow],
    predictions: Mapping[str, Path],
) -> Analysis:
    """Compute the statistics of all rows.

    Args:
        accuracy: accuracies on the source classes.
        transfer: test scores of transfers.
        scores: transferability scores.
        predictions: key of a transfer -> the file of its predictions, if it has one.
    """
    names = model_names([*transfer, *scores])
    matrices = score_matrices(transfer, names)
    predicted = predictor_rows(scores, matrices)
    rankings = {method: ranking(matrix) for method, matrix in matrices.items()}
    scratch = scratch_matrices(transfer, names)
    with_scratch = matrices | scratch
    compared = {method: comparable(matrix) for method, matrix in with_scratch.items()}
    associations = [
        row
        for method, matrix in with_scratch.items()
        if (row := association(matrix, compared[method]))
    ]
    converged = convergences(transfer, names)
    return Analysis(
        names=names,
        effects=effects(accuracy, transfer),
        comparisons=comparisons(transfer),
        against_scratch=against_scratch(transfer, names),
        image_tests=image_tests(transfer, predictions, names),
        matrices=matrices,
        rankings={method: ranked for method, ranked in rankings.items() if ranked},
        associations=associations,
        compared=compared,
        signs=sign_rows(with_scratch, scratch),
        convergences=converged,
        speedups=speedups(converged),
        top_counts=top_counts(scores, names),
        training_groups=training_groups(matrices, transfer),
        medians=seed_medians(transfer, names),
        predictor_rows=predicted,
        predictor_fits=predictor_fits(predicted),
    )
