"""Find the classes or images of a subset by the results of rank and select stages; describe it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.matrix.stage import SCORES
from harness.runner.context import StageContext
from harness.runner.result import Result
from harness.stages.select.spec import SCORES_FILE
from harness.stages.write.record import WrittenSubset
from harness.system.array_files import Form, read_arrays
from writers.subset.ranking import Ranking
from writers.subset.scores import ClassScores, ImageScores, Scores
from writers.subset.spec import Subset, SubsetSpec, resolve

FORMS = {"ids": Form("u"), "values": Form("fiu"), "clusters": Form("i", needed=False)}


def resolve_subset(
    config: Mapping[str, Any],
    classes: Sequence[str],
    class_counts: Mapping[str, int],
    context: StageContext,
) -> Subset:
    """Determine the classes or images of the source dataset that belong to a subset.

    Args:
        config: the subset as JSON, see `writers.subset.spec.SubsetSpec`.
        classes: classes of the source dataset, in label order.
        class_counts: class -> number of training images.
        context: context of the stage. `needs` has the ranking and the scores, if the subset selects
            by them.
    """
    ranking, ranked = None, context.needs.get("ranking")
    if ranked is not None:
        ranking = Ranking(
            classes=tuple(ranked.metrics["classes"]),
            accuracy=ranked.metrics["accuracy"],
            source=f"stage {ranked.key}",
            tie_break=ranked.metrics["tie_break"],
        )
    scores = {
        role.removeprefix(SCORES): _scores(result, context.need_folders[role])
        for role, result in context.needs.items()
        if role.startswith(SCORES)
    }
    return resolve(
        SubsetSpec.model_validate(config),
        classes,
        ranking,
        class_counts=class_counts,
        scores=scores,
    )


def written_subset(subset: Subset) -> WrittenSubset:
    """Return the record of a subset in the result of a write or view stage."""
    about: WrittenSubset = {
        "name": subset.name,
        "num_classes": len(subset.classes),
        "digest": subset.digest,
    }
    if subset.groups:
        about["groups"] = [list(group) for group in subset.groups]
    return about


def without_images(classes: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Return the classes whose number of images is 0, in label order."""
    return [name for name, count in zip(classes, counts, strict=True) if count == 0]


def _scores(result: Result, folder: Path) -> Scores:
    """Read the scores of a select stage. Raises UserError if its file is damaged."""
    source = f"stage {result.key}"
    table = result.metrics["classes"]
    if table is not None:
        value, low, high, tie_break = (
            {name: math.nan if row[column] is None else row[column] for name, row in table.items()}
            for column in ("score", "low_95", "high_95", "tie_break")
        )
        return ClassScores(value, low, high, source, tie_break)
    arrays = read_arrays(folder / SCORES_FILE, "scores", FORMS)
    return ImageScores(arrays["ids"], arrays["values"], arrays.get("clusters"), source)
