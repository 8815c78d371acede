"""Select the best models by a cheap score, and skip the stages of all others.

A shortlist is a separate stage. It ranks the models that have scores, and lists models whose scores
failed as left out. Stages with `Stage.gated_by` run only for models on that shortlist. For other
models they are neither done nor failed but skipped. No file records the skipped stages; they are
always derived from the shortlist. `gated_by` is not part of the keys of stages, so adding a model
does not invalidate results of the other models.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from harness.matrix.stage import Stage
from harness.runner import result


class RankedModel(TypedDict):
    """Row of a shortlist's ranking.

    mean_rank counts from 1; mean_score and scores (target -> score) are in the score's unit.
    """

    model: str
    mean_rank: float
    mean_score: float
    scores: dict[str, float]


def rank(values: Mapping[str, Mapping[str, float]]) -> list[RankedModel]:
    """Order models by their mean rank over the targets, best first.

    Ranks are averaged instead of scores because scores of different targets have different scales.
    Equal scores share the mean of their ranks. Ties in the mean rank are broken by the higher mean
    score, then by name.

    Args:
        values: model -> target -> score, larger is better; every model has every target.
    """
    ranks: dict[str, list[float]] = {model: [] for model in values}
    for target in next(iter(values.values()), {}):
        scores = {model: of_model[target] for model, of_model in values.items()}
        for model, score in scores.items():
            num_better = sum(other > score for other in scores.values())
            num_equal = sum(other == score for other in scores.values())
            ranks[model].append(num_better + (num_equal + 1) / 2)
    rows = [
        RankedModel(
            model=model,
            mean_rank=sum(ranks[model]) / len(ranks[model]),
            mean_score=sum(scores.values()) / len(scores),
            scores=dict(scores),
        )
        for model, scores in values.items()
    ]
    return sorted(rows, key=lambda row: (row["mean_rank"], -row["mean_score"], row["model"]))


def chosen(stage: Stage, runs: Path) -> frozenset[str] | None:
    """Return the models on a shortlist; None if its result does not exist yet or is damaged."""
    metrics = _metrics(stage.folder(runs))
    return None if metrics is None else frozenset(metrics["chosen"])


def skipped(
    stages: Iterable[Stage], runs: Path, cache: dict[str, frozenset[str] | None] | None = None
) -> set[str]:
    """Return keys of the stages that are skipped because their model is not on the shortlist.

    Stages whose shortlist does not exist yet are not skipped.

    Args:
        stages: stages to check.
        runs: folder of stages.
        cache: shortlist key -> models, or None if the shortlist does not exist yet. This call adds
            entries; pass it only if the shortlists do not change any more.
    """
    cache = {} if cache is None else cache
    keys = set()
    for stage in stages:
        if (gate := stage.gated_by) is not None:
            if gate.key not in cache:  # read each shortlist once: with many models it is long
                cache[gate.key] = chosen(gate, runs)
            if (models := cache[gate.key]) is not None and stage.axes["model"] not in models:
                keys.add(stage.key)
    return keys


def _metrics(folder: Path) -> dict[str, Any] | None:
    try:
        metrics = result.read_metrics(folder)
    except (OSError, ValueError, KeyError):
        return None
    return metrics if "chosen" in metrics else None
