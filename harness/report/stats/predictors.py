"""Measure how well cheap scores predict the accuracy that models reach after transfer."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.report.data.records import ModelId, ScoreRow
from harness.report.stats import summaries
from harness.report.stats.intervals import t_half_width
from harness.report.stats.leaderboard import MIN_MODELS, TOP, ScoreMatrix

Floats = NDArray[np.float64]
SOURCE_ACCURACY = "source accuracy"


@dataclass(frozen=True)
class PredictorRow:
    """One predictor of one method's accuracy on one target, over the models that have both.

    Attributes:
        predictor: a score, SOURCE_ACCURACY, or the accuracy of a method that trains the head only.
        method: the method whose accuracy is predicted.
        k: number of models that recall_at_k and relative_accuracy_at_k select.
    """

    predictor: str
    method: str
    target: str
    num_models: int
    weighted_kendall: float
    pearson: float
    spearman: float
    k: int
    recall_at_k: float
    relative_accuracy_at_k: float


@dataclass(frozen=True)
class PredictorFit:
    """Means of a predictor's measures over the targets.

    Attributes:
        num_models: smallest number of models on any target.
        half_width_95: half the 95 % t interval of weighted_kendall over targets; None for one
            target, and if all targets have the same value.
    """

    predictor: str
    method: str
    num_targets: int
    num_models: int
    weighted_kendall: float
    half_width_95: float | None
    pearson: float
    spearman: float
    k: int
    recall_at_k: float
    relative_accuracy_at_k: float


def predictor_rows(
    scores: Iterable[ScoreRow], matrices: Mapping[str, ScoreMatrix]
) -> list[PredictorRow]:
    """Compare predictors with the accuracy of each method.

    Predictors are every score and source accuracy, and methods that train the head only if the
    method trains more.
    """
    values: dict[str, dict[tuple[str, ModelId], list[float]]] = {}
    for row in scores:
        values.setdefault(row.name, {}).setdefault((row.target, row.model_id), []).append(row.value)
    means = {
        name: {place: sum(cell) / len(cell) for place, cell in cells.items()}
        for name, cells in values.items()
    }
    rows = []
    for method, matrix in matrices.items():
        # Source accuracy alone, over a few subsets and eps, is no prediction.
        if not (means or matrix.has_many_models):
            continue
        for name, cells in _predictors(method, matrices, means).items():
            for column, target in enumerate(matrix.targets):
                pairs = np.array(
                    [
                        (cells.get((target, model), math.nan), matrix.scores[row_index, column])
                        for row_index, model in enumerate(matrix.model_ids)
                    ]
                )
                pairs = pairs[np.isfinite(pairs).all(axis=1)]
                if len(pairs) >= MIN_MODELS and np.ptp(pairs[:, 0]) and np.ptp(pairs[:, 1]):
                    rows.append(_predictor_row(name, method, target, *pairs.T))
    return rows


def _predictors(
    method: str,
    matrices: Mapping[str, ScoreMatrix],
    means: Mapping[str, dict[tuple[str, ModelId], float]],
) -> dict[str, dict[tuple[str, ModelId], float]]:
    """Predictor -> (target, model) -> its value, for predictors of `method`."""
    matrix = matrices[method]
    predictors = dict(means)
    predictors[SOURCE_ACCURACY] = {
        (target, model): float(accuracy)
        for model, accuracy in zip(matrix.model_ids, matrix.source_accuracy, strict=True)
        for target in matrix.targets
    }
    for name, other in matrices.items():
        if other.is_head_only and not matrix.is_head_only:
            predictors[f"{name} accuracy"] = {
                (target, model): float(other.scores[row, column])
                for row, model in enumerate(other.model_ids)
                for column, target in enumerate(other.targets)
            }
    return predictors


def _predictor_row(
    predictor: str, method: str, target: str, score: Floats, accuracy: Floats
) -> PredictorRow:
    k = min(TOP, max(1, len(score) // 3))
    correlation = summaries.correlation(score, accuracy)
    return PredictorRow(
        predictor,
        method,
        target,
        len(score),
        summaries.weighted_kendall(score, accuracy),
        correlation.r,
        correlation.rho,
        k,
        summaries.recall_at(k, score, accuracy),
        summaries.relative_accuracy_at(k, score, accuracy),
    )


def predictor_fits(rows: Iterable[PredictorRow]) -> list[PredictorFit]:
    """Average the rows over targets; for each method, the best predictor first."""
    groups: dict[tuple[str, str], list[PredictorRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.predictor), []).append(row)
    fits = []
    for (method, predictor), group in groups.items():
        kendall = np.array([row.weighted_kendall for row in group])
        fits.append(
            PredictorFit(
                predictor,
                method,
                len(group),
                min(row.num_models for row in group),
                float(np.mean(kendall)),
                t_half_width(kendall),
                float(np.mean([row.pearson for row in group])),
                float(np.mean([row.spearman for row in group])),
                min(row.k for row in group),
                float(np.mean([row.recall_at_k for row in group])),
                float(np.mean([row.relative_accuracy_at_k for row in group])),
            )
        )
    methods = list(dict.fromkeys(fit.method for fit in fits))
    return sorted(fits, key=lambda fit: (methods.index(fit.method), -fit.weighted_kendall))


def gap_to_runner_up(
    rows: Iterable[PredictorRow], best: PredictorFit, second: PredictorFit
) -> tuple[float, float | None] | None:
    """Difference in weighted Kendall of two predictors, paired by target.

    Returns:
        The mean difference and half its 95 % t interval over targets, which is None if the
        difference is the same on all targets. None if the two predictors share fewer than two
        targets.
    """
    by_target: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.method == best.method and row.predictor in (best.predictor, second.predictor):
            by_target.setdefault(row.target, {})[row.predictor] = row.weighted_kendall
    differences = np.array(
        [
            both[best.predictor] - both[second.predictor]
            for both in by_target.values()
            if len(both) == 2
        ]
    )
    if len(differences) < 2:
        return None
    return float(np.mean(differences)), t_half_width(differences)
