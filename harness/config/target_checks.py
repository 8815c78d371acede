"""Check a recipe's datasets against their specifications, and its methods against its targets."""

from collections.abc import Collection

from harness.config.data import DataSettings
from harness.config.explain import Place
from harness.config.recipe import Recipe
from writers import names
from writers.labels.kinds import ONE_LABEL, kind_of_metric


def unfit_datasets(recipe: Recipe) -> list[tuple[Place, str]]:
    """Find sources with several labels per image, and settings that do not fit their dataset.

    These are metrics, protocols, tables of labels, and settings for folders.
    """
    mistakes: list[tuple[Place, str]] = []
    for place, data in recipe.datasets:
        spec = names.find("writers.datasets", data.dataset, "dataset").SPEC
        own = data.own_metric
        if not data.folders.is_default and (data.dataset != "folder" or data.labels is not None):
            for name in sorted({"split_folders", "class_level"} & data.model_fields_set):
                mistakes.append(
                    (
                        (*place, name),
                        "has an effect with dataset: folder only, and without a table of labels.",
                    )
                )
        if data.labels is not None and data.dataset != "folder":
            mistakes.append(
                (
                    (*place, "labels"),
                    f"{data.dataset} defines its labels; a table needs dataset: folder.",
                )
            )
        if data.protocol not in (None, *spec.protocols):
            known = ", ".join(spec.protocols) or "its own splits only"
            mistakes.append(
                (
                    (*place, "protocol"),
                    f"{data.dataset} has no splits called '{data.protocol}'. Known: {known}.",
                )
            )
        kind = kind_of_metric(own)
        if place == ("source",) and kind != ONE_LABEL:
            mistakes.append(
                (
                    (*place, "dataset"),
                    f"images of {_name(data)} have {kind}, so it can only be a target.",
                )
            )
        elif data.metric is not None and kind_of_metric(data.metric) != kind:
            mistakes.append(
                (
                    (*place, "metric"),
                    f"{data.metric} does not fit {_name(data)}, whose images have {kind}.",
                )
            )
    return mistakes


def unfit_pairs(recipe: Recipe, unknown: Collection[str] = ()) -> list[tuple[Place, str]]:
    """Find targets that no method of the recipe fits, and methods that fit no target.

    A method works on boxes of objects or on labels of whole images; scores work on labels. Also
    finds entries of `include` and `exclude` that name only pairs that do not fit.

    Args:
        recipe: the recipe.
        unknown: labels of targets that may or may not have boxes.
    """
    mistakes: list[tuple[Place, str]] = []
    methods = {label: settings.NEEDS_BOXES for label, settings in recipe.methods.items()}
    for index, target in enumerate(recipe.targets):
        place = ("targets", index, "dataset")
        if target.label in unknown:
            continue
        if target.has_boxes and True not in methods.values():
            mistakes.append(
                (
                    place,
                    f"{_name(target)} has boxes of objects, which the method detection reads; "
                    "the recipe does not have it.",
                )
            )
        elif not target.has_boxes and False not in methods.values() and not recipe.scores:
            mistakes.append(
                (
                    place,
                    f"{_name(target)} has no boxes of objects, which the methods of this recipe "
                    "need.",
                )
            )
    have_boxes = {
        has_boxes
        for target in recipe.targets
        for has_boxes in ((True, False) if target.label in unknown else (target.has_boxes,))
    }
    if recipe.scores and recipe.targets and False not in have_boxes:
        mistakes.append(
            (
                ("scores",),
                "need a target with labels of whole images; all targets have boxes of objects.",
            )
        )
    mistakes += [
        (
            ("methods", label),
            "needs a target with boxes of objects, such as voc2007_detection."
            if needs_boxes
            else "needs a target with labels of whole images; all targets have boxes of objects.",
        )
        for label, needs_boxes in methods.items()
        if needs_boxes not in have_boxes
    ]
    for key in ("include", "exclude"):
        for number, entry in enumerate(getattr(recipe, key)):
            named = entry.axes()
            pairs = [
                (target, label)
                for target in recipe.targets
                for label in named.get("method", ())
                if target.label in named.get("target", ()) and label in methods
            ]
            if any(target.label in unknown for target, _ in pairs):
                continue
            if pairs and all(target.has_boxes != methods[label] for target, label in pairs):
                target, label = pairs[0]
                mistakes.append(
                    (
                        (key, number),
                        f"has no effect: {label} is never used on {target.label}. The method "
                        "detection is for targets with boxes, and only they are for it.",
                    )
                )
    return mistakes


def _name(data: DataSettings) -> str:
    """Name of a dataset in messages. For `.beton` files it is their path."""
    return (data.path or data.label) if data.is_beton else data.dataset
