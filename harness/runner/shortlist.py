"""The best models of a zoo by a cheap score, and the stages that run for those only.

A shortlist is a stage of its own. It takes what scores there are: of a model that failed there are none, and it is left out,
by name. Stages that are gated by it (`Stage.only_if`) do not run for models outside; they are neither done nor failed, they
are skipped, and no file says so: whoever asks reads the shortlist. The gate is no part of their keys, so that a model that
joins the zoo does not undo what has been computed for the others.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.matrix.stage import Stage
from harness.runner import result

KIND = "shortlist"


def rank(values: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Models by their mean rank over the targets, the best first: of equal ones the higher mean score, then the name.

    values: model -> target -> score, larger is better; every model has every target. Ranks count from 1, equal scores share
    the mean of their ranks: scores of different targets have different scales.
    """
    ranks: dict[str, list[float]] = {model: [] for model in values}
    for target in next(iter(values.values()), {}):
        scores = {model: of_model[target] for model, of_model in values.items()}
        for model, score in scores.items():
            above = sum(other > score for other in scores.values())
            equal = sum(other == score for other in scores.values())
            ranks[model].append(above + (equal + 1) / 2)
    rows = [
        {
            "model": model,
            "mean_rank": sum(ranks[model]) / len(ranks[model]),
            "mean_score": sum(scores.values()) / len(scores),
            "scores": dict(scores),
        }
        for model, scores in values.items()
    ]
    return sorted(rows, key=lambda row: (row["mean_rank"], -row["mean_score"], row["model"]))


def chosen(stage: Stage, runs: Path) -> frozenset[str] | None:
    """The models on the shortlist of that stage; None where it is not there yet."""
    metrics = _metrics(stage.folder(runs))
    return None if metrics is None else frozenset(metrics["chosen"])


def skipped(
    stages: Iterable[Stage], runs: Path, known: dict[str, frozenset[str] | None] | None = None
) -> set[str]:
    """Keys of the stages whose model is not on their shortlist, as far as shortlists are there.

    known: shortlists, by key, that have been read and will not change; those that are read now are put there.
    """
    known = {} if known is None else known
    found = set()
    for stage in stages:
        if (gate := stage.only_if) is not None:
            if gate.key not in known:  # read once: that of a large zoo is long
                known[gate.key] = chosen(gate, runs)
            if (models := known[gate.key]) is not None and stage.axes["model"] not in models:
                found.add(stage.key)
    return found


def is_incomplete(folder: Path) -> bool:
    """Whether a shortlist was drawn up without some of the scores that it needs: it is drawn up again at the next run."""
    metrics = _metrics(folder)
    return metrics is not None and metrics["num_missing"] > 0


def _metrics(folder: Path) -> dict[str, Any] | None:
    try:
        metrics: dict[str, Any] = json.loads((folder / result.FILE_NAME).read_text())["metrics"]
    except (OSError, ValueError, KeyError):
        return None
    return metrics if "chosen" in metrics else None
