"""Build classifiers of torchvision and timm by name, divided into backbone and linear head.

`torchvision/resnet50` has torchvision's default weights. `torchvision/resnet50@IMAGENET1K_V1` has
torchvision's weights IMAGENET1K_V1. In `timm/inception_v3.tf_in1k`, timm's tag names the weights.

There is no list of architectures. To find the head, the network is built for an unusual number of
classes. The only layer with that number of outputs is the head, and its inputs are the features.
The head may be a 1x1 convolution. If it follows the pooling (BiT, DPN, DLA), it is equal to a
linear layer. If it precedes the pooling (SqueezeNet), its inputs are not pooled. The features of
such a network are instead the pooled class maps of ImageNet's 1000 classes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.config.zoo_names import LIBRARIES, available, split_weights, timm_library
from harness.modeling.published_accuracy import timm_accuracy
from writers import names
from writers.errors import UserError
from writers.text_names import counted

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Networks of torchvision with auxiliary classifiers, which are used in training only.
WITH_AUXILIARY = ("googlenet", "inception_v3")
# First parts of the names of torchvision's networks that take images of one resolution only.
FIXED_SIZE = (
    "vit_",
    "maxvit_",
)
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\..*)")
_UNLIKELY = 1013  # a number of classes that is not the width of an inner layer
_IMAGENET = 1000


@dataclass(frozen=True)
class Network:
    """A network without its head, and the preprocessing that its published weights need."""

    backbone: nn.Module  # normalized images [B, 3, R, R] -> features [B, D]
    feature_dim: int  # D
    head_name: str  # module name of the removed layer, or "" if none was removed
    mean: tuple[float, float, float]  # per channel, of pixels in [0, 1]
    std: tuple[float, float, float]
    resolution: int  # in pixels
    is_fixed_size: bool  # True if the library allows no other resolution
    crop_fraction: float  # center crop as a fraction of the shorter side
    interpolation: str  # filter of the resize, as the library names it


@dataclass(frozen=True)
class PretrainedWeights:
    """Metadata of the weights that a library publishes under a name."""

    file_names: tuple[str, ...]  # possible file names, at least one
    caches: tuple[Path, ...]  # possible files in the libraries' caches
    url: str | None
    num_classes: int  # 0 if the weights have no head, as after self-supervised training
    # Renames the file's tensors to the network's names.
    rename_keys: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    imagenet_top1: float | None = None  # published accuracy, in [0, 1]; None means unknown
    imagenet_top5: float | None = None
    license: str | None = None


def build(arch: str) -> Network:
    """Build a network with random weights.

    Raises:
        UserError: the name is unknown, or the network has no linear head.
    """
    library, _, name = arch.partition("/")
    if library not in LIBRARIES or not name:
        raise UserError(f"There is no model named '{arch}'.", "Use torchvision/NAME or timm/NAME.")
    return _from_torchvision(name) if library == "torchvision" else _from_timm(name)


def pretrained_weights(arch: str) -> PretrainedWeights:
    """Return the metadata of published weights, without reading them.

    Raises:
        UserError: the name is unknown, or it has no published weights.
    """
    library, _, name = arch.partition("/")
    if library not in LIBRARIES or not name:
        raise UserError(f"There is no model named '{arch}'.", "Use torchvision/NAME or timm/NAME.")
    weights = _torchvision_pretrained(name) if library == "torchvision" else _timm_pretrained(name)
    if weights is None:
        raise UserError(
            f"{library} publishes no weights of {name}.",
            "Use checkpoint: FILE, or another model.",
        )
    return weights


def _torchvision_pretrained(name_and_weights: str) -> PretrainedWeights | None:
    name, _ = split_weights(name_and_weights)
    weights = _torchvision_weights(name_and_weights)
    if weights is None:
        return None
    file = weights.url.rpartition("/")[2]
    accuracy = weights.meta["_metrics"].get("ImageNet-1K", {})

    def rename_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        auxiliary = ("aux", "AuxLogits.") if name in WITH_AUXILIARY else ()
        tensors = {key: value for key, value in tensors.items() if not key.startswith(auxiliary)}
        if name.startswith("densenet"):  # old names, with dots inside the names of modules
            tensors = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in tensors.items()}
        return tensors

    return PretrainedWeights(
        (file,),
        (Path(torch.hub.get_dir()) / "checkpoints" / file,),
        weights.url,
        len(weights.meta["categories"]),
        rename_keys,
        accuracy["acc@1"] / 100 if accuracy else None,
        accuracy["acc@5"] / 100 if accuracy else None,
    )


def _torchvision_weights(name_and_weights: str) -> Any:
    """Return the named weights of a torchvision network, or else its default weights, or None.

    Raises:
        UserError: the network or the weights are unknown.
    """
    from torchvision import models

    name, chosen = split_weights(name_and_weights)
    if name not in available("torchvision"):
        raise names.unknown("torchvision model", name, available("torchvision"))
    weights = models.get_model_weights(name)
    if not chosen:
        return weights.DEFAULT if list(weights) else None
    known = [member.name for member in weights]
    if chosen not in known:
        raise names.unknown(f"set of weights of torchvision/{name}", chosen, known)
    return weights[chosen]


def _timm_pretrained(name: str) -> PretrainedWeights | None:
    timm = timm_library()
    if "@" in name:
        raise UserError(
            f"There is no model named 'timm/{name}'.", "A tag names timm's weights: timm/NAME.TAG."
        )
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        raise names.unknown("timm model", name, timm.list_models())
    if not config.has_weights:
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
    file_names = [f"{tagged}{extension}" for extension in (".safetensors", ".pth", ".pt", ".bin")]
    file_names += [config.url.rpartition("/")[2]] if config.url else []

    def rename_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename keys with timm's own conversion."""
        network = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors}
        )
        renamed: dict[str, Tensor] = network.state_dict()
        return renamed

    url = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
    crop = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())["crop_pct"]
    accuracy = timm_accuracy(tagged, config.input_size[-1], crop)
    return PretrainedWeights(
        tuple(file_names),
        tuple(caches),
        url,
        config.num_classes,
        rename_keys,
        accuracy.top1 if accuracy else None,
        accuracy.top5 if accuracy else None,
        license=config.license,
    )


def _from_torchvision(name_and_weights: str) -> Network:
    from torchvision import models

    name, _ = split_weights(name_and_weights)
    # transform_input: the network itself converts to the other normalization that the published
    # weights need.
    auxiliary = {"init_weights": True, "aux_logits": False, "transform_input": True}
    options: dict[str, Any] = auxiliary if name in WITH_AUXILIARY else {}
    weights = _torchvision_weights(name_and_weights)
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
            f"{arch} has {len(heads)} linear layers that give class scores instead of one: it has "
            "no features "
            "before a linear head.",
            "It cannot be transferred; choose another model.",
        )
    name, feature_dim = heads[0]
    parent = network.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.Identity())
    return Network(network, feature_dim, name, *published)


def _sees_one_place(make: Callable[[int], nn.Module], name: str, resolution: int) -> bool:
    """Return True if the input of layer `name` is 1 x 1: it follows the pooling."""
    with torch.device("meta"), torch.no_grad():
        network = make(_UNLIKELY).eval()
        places: list[torch.Size] = []
        network.get_submodule(name).register_forward_pre_hook(
            lambda layer, inputs: places.append(inputs[0].shape[2:])
        )
        network(torch.empty(1, 3, resolution, resolution))
    return places == [(1, 1)]


def load_weights(
    arch: str, network: Network, head: nn.Linear | None, weights: dict[str, Tensor]
) -> None:
    """Load weights with the library's names into backbone and head.

    If the file has no biases of the head, they are set to 0. Batch counters, which old files lack,
    are set to 0, too.

    Args:
        arch: name of the network, for messages.
        network: the backbone and the name of its head.
        head: the head; None does not load a head.
        weights: the library's name -> tensor.

    Raises:
        UserError: the weights do not match. The message lists the first few keys that differ.
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
        if "weight" in own and own["weight"].shape[2:] == (1, 1):  # from a 1x1 convolution
            own["weight"] = own["weight"].flatten(1)
        load_strictly(arch, head, {"bias": torch.zeros(head.out_features)} | own)
    else:
        if head.out_features != head.in_features:
            raise UserError(
                f"{arch} computes scores of {counted(head.in_features, 'class')} and has no head "
                f"that could give {head.out_features:,}.",
                "Give the classes of the training with --classes; --classes none drops them.",
            )
        with torch.no_grad():
            head.weight.copy_(torch.eye(head.out_features, head.in_features))
            head.bias.zero_()


def load_strictly(arch: str, module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load tensors by name. `arch`: name of the network, for messages.

    Raises:
        UserError: names or shapes differ from the module's. The message lists the first few.
    """
    own = module.state_dict()
    lacking = sorted(own.keys() - weights.keys())
    foreign = sorted(weights.keys() - own.keys())
    if lacking or foreign:
        raise UserError(
            f"The weights are not those of {arch}: "
            f"{counted(len(lacking), 'tensor', ('is', 'are'))} missing ({', '.join(lacking[:3])}), "
            f"{len(foreign)} are unknown ({', '.join(foreign[:3])}).",
            "Give the architecture that was trained.",
        )
    for key, value in weights.items():
        if own[key].shape != value.shape:
            raise UserError(
                f"The weights are not those of {arch}: {key} is {tuple(value.shape)}, and should "
                "be "
                f"{tuple(own[key].shape)}.",
                "Give the architecture that was trained.",
            )
    with torch.no_grad():
        module.load_state_dict(weights)
