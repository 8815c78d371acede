"""Classifier that normalizes pixels and maps them to logits.

The model contains the normalization so that an attack works in pixel space. The architectures are
in `harness/modeling/archs/`. Each file has `build(num_classes, channels) -> (backbone, D)`, and the
backbone maps normalized images [B, 3, R, R] to pooled features [B, D]. Names with a slash are
networks of torchvision and timm (`harness/modeling/zoo.py`).
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.modeling import zoo
from harness.modeling.blur_pool import add_blur_pool
from harness.modeling.regularizers import AuxiliaryHead, fix_batch_norm_scale
from harness.modeling.weight_files import ZIP_BEGIN, check_unpacked_size
from harness.system.atomic_write import write_atomically
from writers import names
from writers.errors import UserError
from writers.regular_file import open_regular
from writers.text_names import first_line


class Architecture(Protocol):
    """Interface of a file of `harness/modeling/archs/`."""

    def build(self, num_classes: int, channels: tuple[int, ...] | None) -> tuple[nn.Module, int]:
        """Return the backbone and its number of features.

        Args:
            num_classes: number of outputs of the head. The backbone has no head, but a registry may
                require the number to build a network.
            channels: widths of the stages; None uses the default widths.
        """


class Classifier(nn.Module):
    """Normalization, `backbone` and linear `head`. Takes uint8 pixels or floats in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_dim = feature_dim
        self.head = nn.Linear(feature_dim, num_classes)
        self.fixed_size: int | None = None  # the only resolution in pixels that the backbone takes
        self.dropout = 0.0  # dropout probability of the features before the head
        self.auxiliary: AuxiliaryHead | None = None  # a second head, only in training
        self.register_buffer("mean", torch.tensor(zoo.IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(zoo.IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels [B, 3, R, R] to logits [B, K].

        In training with an auxiliary head, return the logits and the auxiliary logits.
        """
        features = self.features(images)
        if self.dropout:
            features = functional.dropout(features, self.dropout, self.training)
        logits = self.head(features)
        if self.auxiliary is not None and self.training:
            return logits, self.auxiliary()  # type: ignore[return-value]
        output: Tensor = logits
        return output

    def features(self, images: Tensor) -> Tensor:
        """Map pixels [B, 3, R, R] to features [B, D], the input of the head."""
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features


def build(
    arch: str,
    num_classes: int,
    *,
    channels: tuple[int, ...] | None = None,
    blur_pool: bool = False,
    batch_norm_scale: bool = True,
) -> Classifier:
    """Build a model in channels_last, with random weights from torch's global generator.

    Args:
        arch: name of a file of `archs/`, or torchvision/NAME or timm/NAME.
        num_classes: number of classes.
        channels: widths of the stages, if they can be chosen; None uses the default widths.
        blur_pool: blur before strided convolutions, see `add_blur_pool`.
        batch_norm_scale: False fixes the scale of each BatchNorm at 1.

    Raises:
        UserError: `arch` is unknown, or a setting has no effect on it.
    """
    if "/" in arch:
        network = zoo.build(arch)  # first, so that an unknown name is reported as such
        if channels is not None:
            raise UserError(
                f"{arch} has fixed widths; channels has no effect on it.",
                "Leave channels out, or use resnet10.",
            )
        model = from_network(network, num_classes)
    else:
        architecture = cast(Architecture, names.find("harness.modeling.archs", arch, "model"))
        model = Classifier(*architecture.build(num_classes, channels), num_classes)
    if blur_pool and not add_blur_pool(model.backbone):
        raise UserError(
            f"blur_pool has no effect on {arch}: it has no strided convolution to blur before.",
            "Leave it out.",
        )
    if not batch_norm_scale:
        fix_batch_norm_scale(model.backbone, arch)
    return model.to(memory_format=torch.channels_last)


def from_network(network: zoo.Network, num_classes: int) -> Classifier:
    """Build a classifier from a network of the zoo, with the network's own normalization."""
    model = Classifier(network.backbone, network.feature_dim, num_classes)
    model.fixed_size = network.resolution if network.is_fixed_size else None
    set_normalization(model, network.mean, network.std)
    return model.to(memory_format=torch.channels_last)


def set_normalization(model: Classifier, mean: Sequence[float], std: Sequence[float]) -> None:
    """Set mean and std per channel, for pixels in [0, 1]."""
    model.mean.copy_(torch.tensor(mean).view(1, 3, 1, 1))
    model.std.copy_(torch.tensor(std).view(1, 3, 1, 1))


def replace_head(model: Classifier, num_classes: int, generator: torch.Generator) -> None:
    """Replace the head by a new one for `num_classes`.

    The new head has nn.Linear's distribution of weights, drawn from `generator`, which is on the
    CPU.
    """
    old = model.head.weight
    # Skip nn.Linear's own initialization, which would draw from the global generator.
    head = torch.nn.utils.skip_init(nn.Linear, model.feature_dim, num_classes)
    bound = model.feature_dim**-0.5
    with torch.no_grad():
        head.weight.uniform_(-bound, bound, generator=generator)
        head.bias.uniform_(-bound, bound, generator=generator)
    model.head = head.to(device=old.device, dtype=old.dtype)


def save(path: Path, model: Classifier, about: dict[str, Any]) -> None:
    """Write weights and metadata atomically, without an auxiliary head.

    Args:
        path: file to write.
        model: model on any device.
        about: metadata of plain values: at least "arch"; also "channels", "blur_pool" and
            "batch_norm_scale" if they differ from the defaults of `build`.
    """
    buffer = io.BytesIO()
    weights = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith("auxiliary.")
    }
    torch.save({"state_dict": weights, "about": about}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """Read a model written by `save`, on the CPU, and its metadata.

    Unpickles tensors and plain values only.

    Raises:
        UserError: the file is missing or damaged, or another program wrote it.
    """
    try:
        with open_regular(path) as file:
            if file.read(len(ZIP_BEGIN)) != ZIP_BEGIN:
                raise ValueError("it does not begin as a zip file")
            check_unpacked_size(file)
            saved = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or not isinstance(saved.get("about"), dict):
            raise ValueError("it has no description of the network")
        about, weights = saved["about"], saved["state_dict"]
        num_classes, channels = len(weights["head.bias"]), about.get("channels")
        model = build(
            about["arch"],
            num_classes,
            channels=tuple(channels) if channels else None,
            blur_pool=about.get("blur_pool", False),
            batch_norm_scale=about.get("batch_norm_scale", True),
        )
        model.load_state_dict(weights)
    except FileNotFoundError as error:
        raise UserError(f"There is no model at {path}.", "Run the stage that trains it.") from error
    except UserError:
        raise
    except Exception as error:  # torch raises many exception types for a damaged file
        raise UserError(
            f"{path} is not a complete model of this harness: {first_line(error)[:200]}",
            "Weights of another program: harness import-checkpoint. If a stage wrote it, delete "
            "the stage's folder to train it again.",
        ) from error
    return model, about
