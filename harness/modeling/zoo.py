"""Anybody's classifier, by name: `torchvision/resnet34`, `timm/tf_efficientnet_lite0`, cut into backbone and linear head.

No list of architectures is kept here. The network is built for an unlikely number of classes; the one layer that has as many
outputs is its head, and what goes into that layer are its features. A convolution behind the pooling (BiT, DPN, DLA) is a
linear layer by another name. One before the pooling (SqueezeNet) leaves no features before a linear head: the pooled class
maps of ImageNet's 1000 classes stand for them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.config.zoo_names import LIBRARIES, available, timm_library
from writers import names
from writers.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WITH_AUXILIARY = ("googlenet", "inception_v3")  # classifiers half-way, of use in training only
FIXED_SIZE = (
    "vit_",
    "maxvit_",
)  # what names begin with of torchvision's that take one resolution only
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\..*)")
_UNLIKELY = 1013  # a number of classes that no inner layer has as its width
_IMAGENET = 1000


@dataclass(frozen=True)
class Network:
    """A network without its head, and how its published weights want to be fed."""

    backbone: nn.Module  # normalised images [B, 3, R, R] -> features [B, D]
    feature_dim: int  # D
    head_name: str  # of the layer that was cut off, in the library's own module names; "": none was
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int  # pixels a side
    is_fixed_size: bool  # whether it takes no other resolution, as far as its library says
    crop_fraction: float  # centre crop: share of the shorter side
    interpolation: str


@dataclass(frozen=True)
class Published:
    """The weights that a library publishes for a name."""

    file_names: tuple[str, ...]  # the file may have; at least one
    caches: tuple[Path, ...]  # where the library would have left it
    url: str | None
    num_classes: int
    in_library_names: Callable[
        [dict[str, Tensor]], dict[str, Tensor]
    ]  # of the file's tensors: as the network has them
    imagenet_top1: float | None = None  # in [0, 1]
    imagenet_top5: float | None = None
    licence: str | None = None


def build(arch: str) -> Network:
    """The network of that name, with random weights. Raises UserError for an unknown one, and for one without linear head."""
    library, _, name = arch.partition("/")
    if library not in LIBRARIES or not name:
        raise UserError(f"There is no model named '{arch}'.", "Say torchvision/NAME or timm/NAME.")
    return _from_torchvision(name) if library == "torchvision" else _from_timm(name)


def published(arch: str) -> Published:
    """What is known of that name's weights, without them. Raises UserError for an unknown name, and where there are none."""
    library, _, name = arch.partition("/")
    if library not in LIBRARIES or not name:
        raise UserError(f"There is no model named '{arch}'.", "Say torchvision/NAME or timm/NAME.")
    found = (
        _published_by_torchvision(name) if library == "torchvision" else _published_by_timm(name)
    )
    if found is None:
        raise UserError(
            f"{library} publishes no weights of a classifier {name}.",
            "Say checkpoint: FILE, or name another model.",
        )
    return found


def _published_by_torchvision(name: str) -> Published | None:
    if name not in available("torchvision"):
        raise names.unknown("torchvision model", name, available("torchvision"))
    weights = _torchvision_weights(name)
    if weights is None:
        return None
    file = weights.url.rpartition("/")[2]
    accuracy = weights.meta["_metrics"].get("ImageNet-1K", {})

    def in_library_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        auxiliary = ("aux", "AuxLogits.") if name in WITH_AUXILIARY else ()
        tensors = {key: value for key, value in tensors.items() if not key.startswith(auxiliary)}
        if name.startswith("densenet"):  # published before module names had to be identifiers
            tensors = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in tensors.items()}
        return tensors

    return Published(
        (file,),
        (Path(torch.hub.get_dir()) / "checkpoints" / file,),
        weights.url,
        len(weights.meta["categories"]),
        in_library_names,
        accuracy["acc@1"] / 100 if accuracy else None,
        accuracy["acc@5"] / 100 if accuracy else None,
    )


def _torchvision_weights(name: str) -> Any:
    """Those that torchvision calls the default; None where it has none."""
    from torchvision import models

    weights = models.get_model_weights(name)
    return weights.DEFAULT if list(weights) else None


def _published_by_timm(name: str) -> Published | None:
    timm = timm_library()
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        raise names.unknown("timm model", name, timm.list_models())
    if not config.has_weights or not config.num_classes:
        return None
    tagged = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    caches = (
        [Path(torch.hub.get_dir()) / "checkpoints" / config.url.rpartition("/")[2]]
        if config.url
        else []
    )
    if config.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        hub_id, _, revision = str(config.hf_hub_id).partition("@")
        cached = [
            try_to_load_from_cache(hub_id, file, revision=revision or None)
            for file in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin")
            if file
        ]
        caches += [Path(path) for path in cached if isinstance(path, str)]
    file_names = [f"{tagged}{ending}" for ending in (".safetensors", ".pth", ".pt", ".bin")]
    file_names += [config.url.rpartition("/")[2]] if config.url else []

    def in_library_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """timm's own conversion, by its own network."""
        network = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors}
        )
        found: dict[str, Tensor] = network.state_dict()
        return found

    url = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    return Published(
        tuple(file_names),
        tuple(caches),
        url,
        config.num_classes,
        in_library_names,
        licence=config.license,
    )


def _from_torchvision(name: str) -> Network:
    from torchvision import models

    if name not in available("torchvision"):
        raise names.unknown("torchvision model", name, available("torchvision"))
    # transform_input: their published weights want another normalisation, which these two do themselves.
    auxiliary = {"init_weights": True, "aux_logits": False, "transform_input": True}
    options: dict[str, Any] = auxiliary if name in WITH_AUXILIARY else {}
    weights = _torchvision_weights(name)
    preset = weights.transforms() if weights else None
    resolution = preset.crop_size[0] if preset else 224
    if name.startswith("vit_"):
        options = {"image_size": resolution}
    shorter = preset.resize_size[0] if preset else 256
    return _without_head(
        lambda num_classes: models.get_model(
            name, weights=None, num_classes=num_classes, **options
        ),
        f"torchvision/{name}",
        mean=tuple(preset.mean) if preset else IMAGENET_MEAN,
        std=tuple(preset.std) if preset else IMAGENET_STD,
        resolution=resolution,
        is_fixed_size=name.startswith(FIXED_SIZE),
        crop_fraction=min(1.0, resolution / shorter),
        interpolation=preset.interpolation.value if preset else "bilinear",
    )


def _from_timm(name: str) -> Network:
    timm = timm_library()
    if not timm.is_model(name):
        raise names.unknown("timm model", name, timm.list_models())
    config = timm.get_pretrained_cfg(name)
    preset = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    return _without_head(
        lambda num_classes: timm.create_model(name, pretrained=False, num_classes=num_classes),
        f"timm/{name}",
        mean=tuple(preset["mean"]),
        std=tuple(preset["std"]),
        resolution=preset["input_size"][-1],
        is_fixed_size=config.fixed_input_size,
        crop_fraction=preset["crop_pct"],
        interpolation=preset["interpolation"],
    )


def _without_head(
    make: Callable[[int], nn.Module],
    arch: str,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    resolution: int,
    is_fixed_size: bool,
    crop_fraction: float,
    interpolation: str,
) -> Network:
    network = make(_UNLIKELY)
    heads = [
        (name, module.in_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == _UNLIKELY
    ]
    published = (
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
        resolution,
        is_fixed_size,
        crop_fraction,
        interpolation,
    )
    if not heads:
        heads = [
            (name, module.in_channels)
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d) and module.out_channels == _UNLIKELY
        ]
        if len(heads) == 1 and not _sees_one_place(make, heads[0][0], resolution):
            return Network(make(_IMAGENET), _IMAGENET, "", *published)
    if len(heads) != 1:
        raise UserError(
            f"{arch} has {len(heads)} linear layers that give class scores, and not one: it has no features "
            "before a linear head.",
            "It cannot take part in a transfer; choose another model.",
        )
    name, feature_dim = heads[0]
    parent = network.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.Identity())
    return Network(network, feature_dim, name, *published)


def _sees_one_place(make: Callable[[int], nn.Module], name: str, resolution: int) -> bool:
    """Whether what that layer of the network is given is pooled: one place for each image. By shapes alone."""
    with torch.device("meta"), torch.no_grad():
        network = make(_UNLIKELY).eval()
        places: list[torch.Size] = []
        network.get_submodule(name).register_forward_pre_hook(
            lambda layer, inputs: places.append(inputs[0].shape[2:])
        )
        network(torch.empty(1, 3, resolution, resolution))
    return places == [(1, 1)]


def load_published(
    arch: str, network: Network, head: nn.Linear | None, weights: dict[str, Tensor]
) -> None:
    """Fill backbone and head with weights in the library's own names. Raises UserError, naming keys, where they do not fit.

    head: None where the weights' own head is of no use. A head without biases gets biases of 0; counters of batches, which old
    files lack, count as 0.
    """
    in_head = {
        key for key in weights if network.head_name and key.rpartition(".")[0] == network.head_name
    }
    counters = {
        key: value
        for key, value in network.backbone.state_dict().items()
        if key.endswith("num_batches_tracked")
    }
    load_strictly(
        arch,
        network.backbone,
        counters | {key: value for key, value in weights.items() if key not in in_head},
    )
    if head is None:
        return
    if network.head_name:
        own = {key.rpartition(".")[2]: weights[key] for key in in_head}
        if "weight" in own and own["weight"].shape[2:] == (1, 1):  # of a convolution
            own["weight"] = own["weight"].flatten(1)
        load_strictly(arch, head, {"bias": torch.zeros(head.out_features)} | own)
    else:
        with torch.no_grad():
            head.weight.copy_(torch.eye(head.out_features, head.in_features))
            head.bias.zero_()


def load_strictly(arch: str, module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load tensors by name. Raises UserError, with the first few names, where they are not exactly those of the module."""
    own = module.state_dict()
    lacking = sorted(own.keys() - weights.keys())
    foreign = sorted(weights.keys() - own.keys())
    if lacking or foreign:
        raise UserError(
            f"The weights are not those of {arch}: {len(lacking)} tensors are missing ({', '.join(lacking[:3])}), "
            f"{len(foreign)} are not known ({', '.join(foreign[:3])}).",
            "Name the architecture that was trained.",
        )
    for key, value in weights.items():
        if own[key].shape != value.shape:
            raise UserError(
                f"The weights are not those of {arch}: {key} is {tuple(value.shape)}, and should be "
                f"{tuple(own[key].shape)}.",
                "Name the architecture that was trained.",
            )
    with torch.no_grad():
        module.load_state_dict(weights)
