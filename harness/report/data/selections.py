"""Collect the subsets whose classes were selected by scores, with their targets and scores."""

from collections.abc import Iterator
from dataclasses import dataclass

from harness.report.data.collection import Collection
from writers.subset import wordnet

NUM_SHOWN = 10  # classes at each end of a list of scores


@dataclass(frozen=True)
class SelectionRow:
    """A subset that is selected by scores.

    Attributes:
        methods: methods that scored the classes.
        seen: targets whose train and val images took part in the selection.
        unseen: targets of the subset's transfers that took no part.
        num_classes: classes of the subset's models. None means no model is finished.
        num_images: training images of the subset's models. None means no model is finished.
    """

    subset: str
    methods: tuple[str, ...]
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    num_classes: int | None
    num_images: int | None


@dataclass(frozen=True)
class ClassScoreRow:
    """Score of one class for the targets; only the highest and lowest scores have a row.

    Attributes:
        words: English name of a WordNet class; "" if unknown.
        low_95: lower end of the 95 % interval. None if the method gives no interval.
        high_95: upper end of the 95 % interval. None if the method gives no interval.
    """

    method: str
    targets: tuple[str, ...]
    name: str
    words: str
    score: float
    low_95: float | None
    high_95: float | None


def selection_rows(results: Collection) -> list[SelectionRow]:
    """Return a row for each subset of the recipe that needs scores."""
    transferred: dict[str, dict[str, None]] = {}
    for result in results.transfers:
        transferred.setdefault(result.axes.get("subset", ""), {})[result.axes["target"]] = None
    models = {result.axes["subset"]: result.metrics for result in results.pretrained}
    return [
        SelectionRow(
            subset.name,
            tuple(dict.fromkeys(request.method for request in subset.requests)),
            subset.selection_targets,
            tuple(
                target
                for target in transferred.get(subset.name, ())
                if target not in subset.selection_targets
            ),
            models[subset.name]["num_classes"] if subset.name in models else None,
            models[subset.name]["num_train_images"] if subset.name in models else None,
        )
        for subset in results.recipe.subsets
        if subset.requests
    ]


def class_score_rows(results: Collection) -> Iterator[ClassScoreRow]:
    """Iterate over the classes with the highest and the lowest scores of each selection."""
    for result in results.of("select"):
        known = {
            name: row
            for name, row in (result.metrics["classes"] or {}).items()
            if row["score"] is not None
        }
        ranked = sorted(
            known, key=lambda name: (-known[name]["score"], -known[name]["tie_break"], name)
        )
        for name in dict.fromkeys([*ranked[:NUM_SHOWN], *ranked[-NUM_SHOWN:]]):
            row = known[name]
            yield ClassScoreRow(
                result.metrics["method"],
                tuple(result.metrics["targets"]),
                name,
                wordnet.words(name),
                row["score"],
                row["low_95"],
                row["high_95"],
            )
