"""Convert a checkpoint of another program into a Classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.modeling import checkpoint_layouts, classifier, state_dicts, zoo
from harness.modeling.classifier import Classifier
from harness.modeling.weight_matching import COUNTER, Match, largest_match
from loaders.interpolation import interpolation_of_weights
from writers.errors import UserError
from writers.subset.spec import named
from writers.text_names import counted

# Children of torchvision's ResNet that have weights -> position among all children.
RESNET_CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


# Attention heads of MoCo v3's ViT-Small and ViT-Base. In timm, they have 6 and 12 heads.
MOCO_V3_HEADS = 12


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
    part: str | None = None,
    drop_foreign_head: bool = False,
) -> tuple[Classifier, dict[str, Any]]:
    """Convert a checkpoint; return the classifier and the metadata to save with it.

    The weights are the largest group of tensors with a common prefix that fits the architecture.
    If the file of a self-supervised method has several copies of the network, the copy that the
    method's authors evaluate is taken. The metadata lists all other tensors as `left_out`, and the
    prefixes of other copies as `other_copies`; see `import_notes.choice_of`.

    A linear layer outside the network, such as `head.fc_cls` or `classifier` of a linear
    evaluation, may be the head. It is taken if it has one input per feature and one output per
    class. A head with another number of outputs is an error, except in files with a self-supervised
    layout, such as those of rotation prediction, with 4 outputs. There it is left out. In such
    files, a head inside the network, such as `online_encoder.net.fc`, is ignored too, because
    self-supervised training does not change its initial values. If a file has nothing but the
    backbone, the model is imported without a head.

    Args:
        path: safetensors or torch file.
        arch: name of a file of `harness/modeling/archs/`, or torchvision/NAME or timm/NAME.
        classes: name of a subset, or class names in label order. None ignores a head in the file,
            such as one of self-supervised training; `has_head` in the metadata is then False.
        eps: radius of the adversarial training, for the metadata.
        resolution: side of the images in pixels, for the metadata. None means the library's for
            networks of torchvision and timm, and 224 for those of `harness/modeling/archs/`.
        mean: mean per channel of pixels in [0, 1]; see below.
        std: standard deviation per channel; see below.
        average: read the exponential moving average of the weights.
        by_order: match tensors by their order instead of their names.
        part: part of the tensors' names, such as `encoder_k`, that chooses another copy of the
            network.
        drop_foreign_head: import without a head if the file has no head for these classes. This is
            always done for files of self-supervised methods.

    The normalization is `mean` and `std` if they are given, otherwise the file's if it has one
    (files of the robustness library), otherwise the architecture's. If only one of them is known,
    an unknown mean is 0 and an unknown standard deviation is 1.

    Raises:
        UserError: weights, architecture and classes do not match, the file is damaged or missing,
            or eps, mean or std is out of range.
    """
    numbers = torch.tensor([eps, *(mean or ()), *(std or ())], dtype=torch.float32)
    if not numbers.isfinite().all() or min(numbers[-3:].tolist() if std else (1,)) <= 0:
        raise UserError("eps, mean and std must be finite numbers, and std must be above 0.")
    if mean and not all(0 <= value <= 1 for value in mean):
        raise UserError(
            f"The mean {' '.join(f'{value:g}' for value in mean)} is not in [0, 1], as pixels are.",
            "Divide mean and std of pixels in 0 ... 255 by 255.",
        )
    names = _names(classes) if classes is not None else ()
    checkpoint = state_dicts.read(path, average=average)
    layout = checkpoint_layouts.recognize(checkpoint.tensors)
    weights = checkpoint.tensors if part is None else _only(checkpoint.tensors, part)
    model, network = _build(arch, max(len(names), 1))
    has_head = classes is not None
    own = _expected_shapes(model, network, has_head)
    left_out: tuple[str, ...] = ()
    prefix = ""
    other_copies: tuple[str, ...] = ()
    if by_order:
        tensors = state_dicts.by_order(weights, own)
    else:
        head_name = "head" if network is None else network.head_name
        match = _match(weights, own, network, layout.part if layout else "")
        prefix, other_copies = match.prefix, match.other_copies
        _check_input_channels(match, own)
        head = {name for name in own if head_name and name.rpartition(".")[0] == head_name}
        foreign = _head_problem(match, own, head, len(names))
        if layout is not None and not foreign and head & match.tensors.keys():
            foreign = f"the head of a network of {layout.method} is not trained"
        if foreign and (separate := _separate_head(match, weights, own, head)):
            match, foreign = separate, ""
        is_bare = not _without_counters(match.left_out) and not head & match.tensors.keys()
        if foreign and (drop_foreign_head or layout is not None or is_bare):
            has_head, names = False, ()
            model, network = _build(arch, 1)
            dropped = [match.sources[name] for name in head if name in match.sources]
            left_out = tuple(sorted([*match.left_out, *dropped]))
            tensors = {name: match.tensors[name] for name in match.tensors if name not in head}
        else:
            tensors, left_out = match.tensors, match.left_out
        if missing := [name for name in match.missing if name not in head or not foreign]:
            raise _mismatch(arch, weights, own, match, missing)
        if foreign and has_head:
            raise UserError(
                f"The weights are not those of {arch} for these classes: {foreign}.",
                "Give the classes of the training with --classes; --classes none (in a recipe "
                "`classes: null`) leaves the head out.",
            )
    state_dicts.check_values(tensors)
    if network is not None:
        _check_attention_heads(arch, network, layout)
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
        "layout": layout.method if layout else None,
        "left_out": list(left_out),
        "prefix": prefix,
        "other_copies": list(other_copies),
        "averages": list(checkpoint.averages),
        "imported_from": path.name,
        "sha256": checkpoint.sha256,
    }
    return model, about


def _only(weights: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors whose names contain a part. Raises UserError if there are none."""
    found = {
        name: tensor for name, tensor in weights.items() if checkpoint_layouts.has_part(name, part)
    }
    if not found:
        first = sorted({name.partition(".")[0] for name in weights})
        raise UserError(
            f"The file has no part named '{part}'.",
            f"Names of its tensors begin with {', '.join(first[:8])}.",
        )
    return found


def _check_input_channels(match: Match, own: dict[str, Any]) -> None:
    """Raise UserError if the weights are for another number of input channels."""
    first = next(iter(own), "")
    tensor = match.tensors.get(first)
    if tensor is None or len(own[first]) != 4 or tensor.ndim != 4:
        return
    if tensor.shape[1] != own[first][1]:
        is_filtered = tensor.shape[1] < 3
        why = (
            "this network was trained on filtered images (DeepCluster and ODC with Sobel filters "
            "take 2)"
            if is_filtered
            else "the weights are those of another architecture"
        )
        raise UserError(
            f"{match.sources[first]} takes {tensor.shape[1]} channels instead of "
            f"{own[first][1]}: {why}.",
            "Use weights of a network that takes RGB images."
            if is_filtered
            else "Give the architecture that was trained.",
        )


def _check_attention_heads(
    arch: str, network: zoo.Network, layout: checkpoint_layouts.Layout | None
) -> None:
    """Raise UserError if MoCo v3's weights are for another number of attention heads.

    The shapes of the weights do not depend on this number, so the weights would load without an
    error, and the features would be wrong.
    """
    blocks = getattr(network.backbone, "blocks", None)
    if layout is None or layout.method != "MoCo v3" or not blocks:
        return
    num_heads = getattr(getattr(blocks[0], "attn", None), "num_heads", MOCO_V3_HEADS)
    if num_heads != MOCO_V3_HEADS:
        raise UserError(
            f"{arch} has {num_heads} attention heads, and the vision transformers of MoCo v3 have "
            f"{MOCO_V3_HEADS}, also the small one: the features would be wrong.",
            "Use ViT-Base or ResNet-50 of MoCo v3.",
        )


def _match(
    weights: Mapping[str, Tensor],
    own: dict[str, Any],
    network: zoo.Network | None,
    preferred: str,
) -> Match:
    """Find the network's tensors in the file by the names in `own`, which maps names to shapes.

    If some are missing, other names are also tried: torchvision's for networks of `archs/`, and
    the numbered names of `nn.Sequential(*resnet.children())` for a torchvision ResNet.
    """
    torchvision = {
        name: name if network else name.removeprefix("backbone.").replace("head.", "fc.")
        for name in own
    }
    numbered = {name: _numbered(other) for name, other in torchvision.items()}
    best = largest_match(weights, own, preferred)
    for other_names in (torchvision, numbered):
        if not best.missing:
            break
        bare = {other: name for name, other in other_names.items()}
        other = largest_match(weights, {name: own[bare[name]] for name in bare}, preferred)
        if len(other.missing) < len(best.missing):
            best = replace(
                other,
                tensors={bare[name]: tensor for name, tensor in other.tensors.items()},
                missing=tuple(bare[name] for name in other.missing),
                sources={bare[name]: source for name, source in other.sources.items()},
            )
    return best


def _numbered(name: str) -> str:
    """Replace the first part of a torchvision ResNet's name by its number: 4.0.conv1.weight."""
    first, _, rest = name.partition(".")
    return f"{RESNET_CHILDREN[first]}.{rest}" if first in RESNET_CHILDREN else name


def _head_problem(match: Match, own: dict[str, Any], head: set[str], num_classes: int) -> str:
    """Return why the file's head does not fit the classes, or ''."""
    name = next((name for name in head if name.endswith("weight")), None)
    if name is None:
        return ""
    if name not in match.tensors:
        return "the file has no head that fits"
    shape = match.tensors[name].shape
    if tuple(shape[:2]) == tuple(own[name]):
        return ""
    return (
        f"{name} has {counted(shape[0] if len(shape) else 0, 'class')} {tuple(shape)}, and should "
        f"be {tuple(own[name])} for {num_classes}"
    )


def _separate_head(
    match: Match, weights: Mapping[str, Tensor], own: dict[str, Any], head: set[str]
) -> Match | None:
    """Match the head with a layer outside the network, such as `head.fc_cls`.

    Returns:
        The match with that layer as head; None if no layer has the head's shapes, or if the head
        is not a linear layer with a bias.

    Raises:
        UserError: several layers have the head's shapes.
    """
    shapes = {name.rpartition(".")[2]: tuple(own[name]) for name in head}
    if len(shapes.get("weight", ())) != 2 or "bias" not in shapes:
        return None
    dropped = {match.sources[name] for name in head if name in match.sources}
    within = [
        source.split(".")[-2:-1] for source in dropped
    ]  # names of heads of other copies of the network
    layers = [
        name.removesuffix("weight")
        for name in match.left_out
        if name.rpartition(".")[2] == "weight"
        and name.split(".")[-2:-1] not in within
        and all(
            (tensor := weights.get(name.removesuffix("weight") + kind)) is not None
            and tuple(tensor.shape) == shape
            for kind, shape in shapes.items()
        )
    ]
    # Ignore solo-learn's second classifier, which is trained on the averaged network's features.
    layers = [name for name in layers if name.removeprefix("momentum_") not in {*layers} - {name}]
    if len(layers) > 1:
        raise UserError(
            f"{len(layers)} layers have the shape of the head: "
            f"{', '.join(layer.rstrip('.') for layer in layers[:3])}.",
            "Choose a copy with --part; --classes none (in a recipe `classes: null`) leaves them "
            "out.",
        )
    if not layers:
        return None
    found = {name: layers[0] + name.rpartition(".")[2] for name in head}
    return replace(
        match,
        tensors=match.tensors | {name: weights[source] for name, source in found.items()},
        missing=tuple(name for name in match.missing if name not in head),
        left_out=tuple(sorted((set(match.left_out) | dropped) - set(found.values()))),
        sources=match.sources | found,
    )


def _without_counters(names: Sequence[str]) -> list[str]:
    return [name for name in names if not name.endswith(COUNTER)]


def _mismatch(
    arch: str,
    weights: Mapping[str, Tensor],
    own: dict[str, Any],
    match: Match,
    missing: Sequence[str],
) -> UserError:
    """Build the error for weights that do not fit, with a hint at the option that may help."""
    shapes = [tuple(tensor.shape) for tensor in weights.values()]
    number = len(match.left_out)
    unknown = (
        f", {number:,} {'is' if number == 1 else 'are'} unknown ({', '.join(match.left_out[:3])})"
        if number
        else ""
    )
    is_same_order = shapes == [tuple(shape) for shape in own.values()]
    return UserError(
        f"The weights are not those of {arch}: {counted(len(missing), 'tensor', ('is', 'are'))} "
        f"missing ({', '.join(missing[:3])}){unknown}.",
        "The shapes agree in order: use --by-order."
        if is_same_order
        else "Give the architecture that was trained with --arch.",
    )


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
    """Return the names and shapes that the weights must have, in module order."""
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
    """Load weights into a model of `archs/`, by its own names or torchvision's (head `fc`)."""
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
