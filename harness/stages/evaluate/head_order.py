"""Match a model's outputs with the classes of the images on which the model is evaluated."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from harness.modeling.classifier import Classifier
from writers.text_names import counted


def order_head(model: Classifier, about: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Put the outputs of a model into the order of the images' classes.

    Args:
        model: model whose head's rows are permuted in place if the order differs.
        about: metadata of the model, with the names of its classes.
        classes: names of the images' classes, in label order.

    Returns:
        "" if the model and the images have the same classes. Otherwise a description of the
        difference; the model is then not changed.
    """
    if not about.get("has_head", True):
        return "the model has no classifier"
    own: list[str] = list(about.get("classes") or classes)
    num_outputs = model.head.out_features
    if not num_outputs == len(own) == len(classes):
        return f"the model has {counted(num_outputs, 'class')}, and the source has {len(classes):,}"
    if own == list(classes):
        return ""
    place = {name: index for index, name in enumerate(own)}
    if unknown := [name for name in classes if name not in place]:
        return (
            f"the model lacks {len(unknown):,} of the {counted(len(classes), 'class')} of the "
            f"source, such as {unknown[0]}"
        )
    order = [place[name] for name in classes]
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight[order])
        model.head.bias.copy_(model.head.bias[order])
    return ""
