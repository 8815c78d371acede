"""torchvision's ResNet-18 with random weights, without its last layer."""

from torch import nn
from torchvision.models import resnet18

from writers.errors import UserError


def build(num_classes: int, channels: tuple[int, ...] | None) -> tuple[nn.Module, int]:
    """Return the backbone, which maps [B, 3, R, R] to [B, D], and D.

    Raises:
        UserError: `channels` is given, but the widths are fixed.
    """
    if channels is not None:
        raise UserError(
            "resnet18 has fixed widths; channels has no effect on it.",
            "Leave channels out, or use resnet10.",
        )
    backbone = resnet18(weights=None, num_classes=1)
    feature_dim = backbone.fc.in_features
    backbone.fc = nn.Identity()
    return backbone, feature_dim
