"""What cheap scores say beforehand about fine-tuning: each against the accuracies that models then reach, by target."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

from harness.report.data.rows import ScoreRow, Source
from harness.report.stats import hypothesis_tests as stats
from harness.report.stats.leaderboard import FEWEST_MODELS, TOP, Board

SOURCE_ACCURACY = "source accuracy"


@dataclass(frozen=True)
class PredictorRow:
    """One predictor of one method's accuracy on one target, over the models that have both."""

    predictor: str  # a score, SOURCE_ACCURACY, or a cheaper method
    method: str  # whose accuracy it is to predict
    target: str
    num_models: int
    weighted_kendall: float
    pearson: float
    spearman: float
    k: int  # of the next two
    recall_at_k: float
    relative_accuracy_at_k: float


@dataclass(frozen=True)
class Power:
    """A predictor over all targets: mean weighted Kendall with its t interval over targets."""

    predictor: str
    method: str
    num_targets: int
    num_models: int  # the fewest of a target
    weighted_kendall: float
    half_width_95: float | None
    pearson: float
    spearman: float
    k: int
    recall_at_k: float
    relative_accuracy_at_k: float


def predictor_rows(scores: Iterable[ScoreRow], boards: Mapping[str, Board]) -> list[PredictorRow]:
    """Every score, source accuracy, and cheaper method against each method that could be predicted."""
    values: dict[str, dict[tuple[str, Source], list[float]]] = {}
    for row in scores:
        values.setdefault(row.name, {}).setdefault((row.target, row.source), []).append(row.value)
    means = {
        name: {place: sum(found) / len(found) for place, found in cells.items()}
        for name, cells in values.items()
    }
    found = []
    for method, board in boards.items():
        if not (
            means or board.has_many_models
        ):  # source accuracy alone, over a few subsets and eps, predicts nothing
            continue
        predictors = dict(means)
        predictors[SOURCE_ACCURACY] = {
            (target, source): float(accuracy)
            for source, accuracy in zip(board.sources, board.source_accuracy, strict=True)
            for target in board.targets
        }
        for name, other in boards.items():
            if name in CHEAP_METHODS and method not in CHEAP_METHODS:
                predictors[f"{name} accuracy"] = {
                    (target, source): float(other.scores[row, column])
                    for row, source in enumerate(other.sources)
                    for column, target in enumerate(other.targets)
                }
        for name, cells in predictors.items():
            for column, target in enumerate(board.targets):
                pairs = np.array(
                    [
                        (cells.get((target, source), math.nan), board.scores[row, column])
                        for row, source in enumerate(board.sources)
                    ]
                )
                pairs = pairs[np.isfinite(pairs).all(axis=1)]
                if len(pairs) >= FEWEST_MODELS and np.ptp(pairs[:, 0]) and np.ptp(pairs[:, 1]):
                    found.append(_row(name, method, target, *pairs.T))
    return found


CHEAP_METHODS = ("fixed", "logreg")


def _row(
    predictor: str, method: str, target: str, score: np.ndarray, accuracy: np.ndarray
) -> PredictorRow:
    k = min(TOP, max(1, len(score) // 3))
    found = stats.correlation(score, accuracy)
    return PredictorRow(
        predictor,
        method,
        target,
        len(score),
        stats.weighted_kendall(score, accuracy),
        found.r,
        found.rho,
        k,
        stats.recall_at(k, score, accuracy),
        stats.relative_accuracy_at(k, score, accuracy),
    )


def powers(rows: Iterable[PredictorRow]) -> list[Power]:
    """Best predictor of each method first."""
    groups: dict[tuple[str, str], list[PredictorRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.predictor), []).append(row)
    found = []
    for (method, predictor), mine in groups.items():
        kendall = [row.weighted_kendall for row in mine]
        half = (
            float(scipy_stats.t.ppf(0.975, len(mine) - 1) * scipy_stats.sem(kendall))
            if len(mine) > 1
            else None
        )
        found.append(
            Power(
                predictor,
                method,
                len(mine),
                min(row.num_models for row in mine),
                float(np.mean(kendall)),
                half,
                float(np.mean([row.pearson for row in mine])),
                float(np.mean([row.spearman for row in mine])),
                min(row.k for row in mine),
                float(np.mean([row.recall_at_k for row in mine])),
                float(np.mean([row.relative_accuracy_at_k for row in mine])),
            )
        )
    methods = list(dict.fromkeys(power.method for power in found))
    return sorted(found, key=lambda power: (methods.index(power.method), -power.weighted_kendall))


def lead(rows: Iterable[PredictorRow], best: Power, second: Power) -> tuple[float, float] | None:
    """By how much `best` is ahead of `second` in weighted Kendall, paired by target, and half its 95 % t interval."""
    mine: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.method == best.method and row.predictor in (best.predictor, second.predictor):
            mine.setdefault(row.target, {})[row.predictor] = row.weighted_kendall
    differences = [
        both[best.predictor] - both[second.predictor] for both in mine.values() if len(both) == 2
    ]
    if len(differences) < 2:
        return None
    return float(np.mean(differences)), float(
        scipy_stats.t.ppf(0.975, len(differences) - 1) * scipy_stats.sem(differences)
    )
