"""Set the metric of a `.beton` dataset by its kind of labels, which is read when a plan is made.

The images of a beton have one label each, several labels, or boxes of objects. Its manifest (JSON
file) has the kind, which is stored in `Contents`, so that expanding a recipe reads no files.
"""

from harness.config import target_checks
from harness.config.base import Metric
from harness.config.data import DataSettings
from harness.config.explain import Place
from harness.config.inputs import BetonLabels, Contents, beton_labels
from harness.config.recipe import Recipe
from writers.errors import UserError
from writers.labels.kinds import BOXES, MANY_LABELS, ONE_LABEL, kind_of_metric

METRICS: dict[str, Metric] = {MANY_LABELS: "map11", BOXES: "map50_11"}


def with_label_kinds(recipe: Recipe, contents: Contents) -> Recipe:
    """Return the recipe in which the metric of each beton fits its labels.

    If a beton cannot be read, its `metric` declares its kind of labels. If it has no `metric`, it
    is assumed to have one label per image; but a target is assumed to have boxes if all methods of
    the recipe need boxes and there are no scores.
    """
    if not any(True for _ in beton_labels(recipe)):
        return recipe
    only_boxes = bool(recipe.methods) and not recipe.scores
    only_boxes &= all(settings.NEEDS_BOXES for settings in recipe.methods.values())
    source, unknown = recipe.source, BOXES if only_boxes else ONE_LABEL
    return recipe.model_copy(
        update={
            "source": _with_kind(source, contents, ONE_LABEL) if source else None,
            "targets": tuple(_with_kind(data, contents, unknown) for data in recipe.targets),
        }
    )


def check_label_kinds(recipe: Recipe, contents: Contents) -> None:
    """Check the recipe's metrics and methods against the labels of its betons.

    Args:
        recipe: the recipe as read, without `with_label_kinds`.
        contents: contents of its inputs.

    Raises:
        UserError: a metric or a method does not fit. The message has one line per mistake.
    """
    if not any(True for _ in beton_labels(recipe)):
        return
    mistakes: list[tuple[Place, str]] = []
    for place, data in recipe.datasets:
        kind = contents.get(BetonLabels(data).name) if data.is_beton else None
        if kind and data.metric is not None and kind_of_metric(data.metric) != kind:
            mistakes.append(
                ((*place, "metric"), f"{data.metric} does not fit {data.path}: images have {kind}.")
            )
    known = with_label_kinds(recipe, contents)
    unknown = {
        data.label
        for data in recipe.targets
        if data.is_beton and data.metric is None and BetonLabels(data).name not in contents
    }
    mistakes = (
        mistakes or target_checks.unfit_datasets(known) or target_checks.unfit_pairs(known, unknown)
    )
    if mistakes:
        # If a target fits no method, do not report too that the method fits no target.
        first = [mistake for mistake in mistakes if mistake[0][0] != "methods"] or mistakes
        lines = (f"{recipe.name}: {'.'.join(map(str, place))}: {what}" for place, what in first)
        raise UserError("\n".join(lines))


def _with_kind(data: DataSettings, contents: Contents, unknown: str) -> DataSettings:
    if not data.is_beton:
        return data
    declared = kind_of_metric(data.metric) if data.metric is not None else unknown
    kind = contents.get(BetonLabels(data).name, declared)
    if kind == kind_of_metric(data.own_metric):
        return data
    return data.model_copy(update={"metric": METRICS.get(kind)})
