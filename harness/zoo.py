"""Anybody's classifier, by name: `torchvision/resnet34`, `timm/tf_efficientnet_lite0`, cut into backbone and linear head.

No list of architectures is kept here. The network is built for an unlikely number of classes; the one layer that has as many
outputs is its head, and what goes into that layer are its features. Where that layer is a convolution (SqueezeNet), there
are no features before a linear head: the pooled class maps of ImageNet's 1000 classes stand for them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from writers import names
from writers.errors import UserError

LIBRARIES = ("torchvision", "timm")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_UNLIKELY = 1013        # a number of classes that no inner layer has as its width
_IMAGENET = 1000


@dataclass(frozen=True)
class Network:
    """A network without its head, and how its published weights want to be fed."""

    backbone: nn.Module             # normalised images [B, 3, R, R] -> features [B, D]
    feature_dim: int                # D
    head_name: str                  # of the layer that was cut off, in the library's own module names; "": none was
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int                 # pixels a side
    crop_fraction: float            # centre crop: share of the shorter side
    interpolation: str


def build(arch: str) -> Network:
    """The network of that name, with random weights. Raises UserError for an unknown one, and for one without linear head."""
    library, _, name = arch.partition("/")
    if library not in LIBRARIES or not name:
        raise UserError(f"There is no model named '{arch}'.", "Say torchvision/NAME or timm/NAME.")
    return _from_torchvision(name) if library == "torchvision" else _from_timm(name)


def available(library: str) -> list[str]:
    """Every classifier of the library that can be named here. Imports it."""
    if library == "timm":
        return sorted(_timm().list_models())
    from torchvision import models

    return sorted(models.list_models(module=models))


def _from_torchvision(name: str) -> Network:
    from torchvision import models

    if name not in available("torchvision"):
        raise names.unknown("torchvision model", name, available("torchvision"))
    options = {"init_weights": True, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    preset = None
    if weights := list(models.get_model_weights(name)):
        preset = weights[-1].transforms()       # the newest weights
    resolution = preset.crop_size[0] if preset else 224
    shorter = preset.resize_size[0] if preset else 256
    return _without_head(lambda num_classes: models.get_model(name, weights=None, num_classes=num_classes, **options),
                         f"torchvision/{name}", mean=tuple(preset.mean) if preset else IMAGENET_MEAN,
                         std=tuple(preset.std) if preset else IMAGENET_STD, resolution=resolution,
                         crop_fraction=min(1.0, resolution / shorter),
                         interpolation=preset.interpolation.value if preset else "bilinear")


def _from_timm(name: str) -> Network:
    timm = _timm()
    if not timm.is_model(name):
        raise names.unknown("timm model", name, timm.list_models())
    preset = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    return _without_head(lambda num_classes: timm.create_model(name, pretrained=False, num_classes=num_classes),
                         f"timm/{name}", mean=tuple(preset["mean"]), std=tuple(preset["std"]),
                         resolution=preset["input_size"][-1], crop_fraction=preset["crop_pct"],
                         interpolation=preset["interpolation"])


def _without_head(make: Callable[[int], nn.Module], arch: str, *, mean: tuple[float, ...], std: tuple[float, ...],
                  resolution: int, crop_fraction: float, interpolation: str) -> Network:
    network = make(_UNLIKELY)
    heads = [(name, module) for name, module in network.named_modules()
             if isinstance(module, nn.Linear) and module.out_features == _UNLIKELY]
    published = (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), resolution, crop_fraction, interpolation
    if any(isinstance(module, nn.Conv2d) and module.out_channels == _UNLIKELY for module in network.modules()) and not heads:
        return Network(make(_IMAGENET), _IMAGENET, "", *published)
    if len(heads) != 1:
        raise UserError(f"{arch} has {len(heads)} linear layers that give class scores, and not one: it has no features "
                        "before a linear head.", "It cannot take part in a transfer; choose another model.")
    name, head = heads[0]
    parent = network.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.Identity())
    return Network(network, head.in_features, name, *published)


def load_published(arch: str, network: Network, head: nn.Linear, weights: dict[str, Tensor]) -> None:
    """Fill backbone and head with weights in the library's own names. Raises UserError, naming keys, where they do not fit."""
    in_head = {key for key in weights if network.head_name and key.rpartition(".")[0] == network.head_name}
    load_strictly(arch, network.backbone, {key: value for key, value in weights.items() if key not in in_head})
    if network.head_name:
        load_strictly(arch, head, {key.rpartition(".")[2]: weights[key] for key in in_head})
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
        raise UserError(f"The weights are not those of {arch}: {len(lacking)} tensors are missing ({', '.join(lacking[:3])}), "
                        f"{len(foreign)} are not known ({', '.join(foreign[:3])}).", "Name the architecture that was trained.")
    for key, value in weights.items():
        if own[key].shape != value.shape:
            raise UserError(f"The weights are not those of {arch}: {key} is {tuple(value.shape)}, and should be "
                            f"{tuple(own[key].shape)}.", "Name the architecture that was trained.")
    with torch.no_grad():
        module.load_state_dict(weights)


def _timm():  # type: ignore[no-untyped-def]
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise UserError("Models of timm need timm.", "pip install timm") from error
    return timm
