"""Count the targets on which a score puts each model among the best (Sokolski's study, by kNN)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.report.data.records import ModelId, ScoreRow
from harness.report.stats import summaries
from harness.report.stats.leaderboard import TOP


@dataclass(frozen=True)
class TopCount:
    """Targets on which one model is among the TOP best by a score.

    Attributes:
        num_targets: targets that the model has the score of.
    """

    score: str
    model: str
    times_in_top: int
    num_targets: int


def top_counts(
    rows: Iterable[ScoreRow], names: Mapping[ModelId, str], score: str = "knn"
) -> list[TopCount]:
    """Count for every model, the most frequent first.

    Args:
        rows: scores of all models on all targets.
        names: model -> its name in this report.
        score: name of the score.

    Returns:
        Empty if there are at most TOP models: all of them would be among the best.
    """
    cells: dict[tuple[ModelId, str], list[float]] = {}
    for row in rows:
        if row.name == score:
            cells.setdefault((row.model_id, row.target), []).append(row.value)
    models = list(dict.fromkeys(model for model, _ in cells))
    targets = list(dict.fromkeys(target for _, target in cells))
    if len(models) <= TOP:
        return []
    row_of = {model: index for index, model in enumerate(models)}
    column_of = {target: index for index, target in enumerate(targets)}
    values = np.full((len(models), len(targets)), math.nan)
    for (model, target), found in cells.items():
        values[row_of[model], column_of[target]] = sum(found) / len(found)
    times = summaries.times_in_top(TOP, values).tolist()
    num_targets = np.isfinite(values).sum(axis=1).tolist()
    counts = [
        TopCount(score, names[model], time, number)
        for model, time, number in zip(models, times, num_targets, strict=True)
    ]
    return sorted(counts, key=lambda count: -count.times_in_top)
