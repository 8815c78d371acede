"""Convert a checkpoint of another program into a Classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.modeling import classifier, state_dicts, zoo
from harness.modeling.classifier import Classifier
from loaders.interpolation import interpolation_of_weights
from writers.errors import UserError
from writers.subset.spec import named


def import_checkpoint(
    path: Path,
    arch: str,
    classes: str | Sequence[str] | None,
    *,
    eps: float = 0.0,
    resolution: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    average: bool = False,
    by_order: bool = False,
) -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier and the metadata to save with it.

    Args:
        path: safetensors or torch file.
        classes: name of a subset, or class names in label order. None ignores a head in the file
            (that of
            self-supervised training); the metadata then has `has_head` False.

    Normalization is the given one, otherwise the file's (robustness library), otherwise that
    published by the library.

    Raises:
        UserError: weights, architecture and classes do not match.
    """
    checkpoint = state_dicts.read(path, average=average)
    has_head = classes is not None
    names = _names(classes) if classes is not None else ()
    model, network = _build(arch, max(len(names), 1))
    own = _expected_shapes(model, network, has_head)
    tensors = state_dicts.by_order(checkpoint.tensors, own) if by_order else checkpoint.tensors
    if network is not None:
        zoo.load_weights(arch, network, model.head if has_head else None, tensors)
    else:
        _load_ours(arch, model, tensors, has_head)
    if (chosen := (mean or checkpoint.mean, std or checkpoint.std)) != (None, None):
        classifier.set_normalization(model, chosen[0] or (0, 0, 0), chosen[1] or (1, 1, 1))
    about = {
        "arch": arch,
        "channels": None,
        "classes": list(names),
        "eps": eps,
        "resolution": resolution or (network.resolution if network else 224),
        "eval_crop": network.crop_fraction if network else 224 / 256,
        "interpolation": interpolation_of_weights(network.interpolation) if network else "area",
        "has_head": has_head,
        "imported_from": path.name,
        "sha256": checkpoint.sha256,
    }
    return model, about


def _names(classes: str | Sequence[str]) -> tuple[str, ...]:
    names = named(classes).classes if isinstance(classes, str) else tuple(classes)
    if names is None:
        raise UserError(
            f"'{classes}' names no classes.", "Give a subset with a class list, such as in1000."
        )
    return tuple(names)


def _build(arch: str, num_classes: int) -> tuple[Classifier, zoo.Network | None]:
    if "/" not in arch:
        return classifier.build(arch, num_classes), None
    network = zoo.build(arch)
    return classifier.from_network(network, num_classes), network


def _expected_shapes(
    model: Classifier, network: zoo.Network | None, has_head: bool
) -> dict[str, Any]:
    """Names and shapes that the weights must have, in module order."""
    if network is None:
        return {
            name: tensor.shape
            for name, tensor in model.state_dict().items()
            if name not in ("mean", "std") and (has_head or not name.startswith("head."))
        }
    own = {name: tensor.shape for name, tensor in network.backbone.state_dict().items()}
    head = {
        f"{network.head_name}.{name}": tensor.shape
        for name, tensor in model.head.state_dict().items()
    }
    return {**own, **head} if network.head_name and has_head else own


def _load_ours(arch: str, model: Classifier, tensors: dict[str, Any], has_head: bool) -> None:
    """Load weights of `archs/`, by their own names or torchvision's, whose head is `fc`."""
    renamed = {
        name
        if name.startswith(("backbone.", "head."))
        else f"head.{name.removeprefix('fc.')}"
        if name.startswith("fc.")
        else f"backbone.{name}": value
        for name, value in tensors.items()
    }
    if not has_head:
        renamed = {name: value for name, value in renamed.items() if not name.startswith("head.")}
        renamed |= {
            name: value for name, value in model.state_dict().items() if name.startswith("head.")
        }
    zoo.load_strictly(arch, model, renamed | {"mean": model.mean, "std": model.std})
