"""Kinds of labels of images: one per image, several, or boxes. A metric fits one kind."""

from typing import Literal

LabelKind = Literal["one label", "many labels", "boxes of objects"]

ONE_LABEL: LabelKind = "one label"
MANY_LABELS: LabelKind = "many labels"
BOXES: LabelKind = "boxes of objects"


def kind_of_metric(metric: str) -> LabelKind:
    """Return the kind of labels that a metric needs."""
    return {"map11": MANY_LABELS, "map50_11": BOXES}.get(metric, ONE_LABEL)
