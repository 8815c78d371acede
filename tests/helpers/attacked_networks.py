"""A network and images for tests of the attack."""

import torch
from torch import Tensor, nn

from harness.modeling import classifier
from tests.helpers.smooth_networks import make_smooth

K = 5


def build_network(*, smooth: bool) -> nn.Module:
    """Build a model with dropout, and with running statistics in BatchNorm that are not 0 and 1."""
    torch.manual_seed(0)
    model = classifier.build("resnet10", K, channels=(16, 16, 16, 32))
    model.backbone.dropout = nn.Dropout(0.5)
    if smooth:
        make_smooth(model)
    with torch.no_grad():
        model.train()(torch.rand(16, 3, 24, 24))
    return model


def make_batch() -> tuple[Tensor, Tensor]:
    """Return images in [0, 1], float32 [6, 3, 24, 24], and labels, int64 [6].

    One image is close to 0 and one close to 1, to test clamping. No image is constant: all inputs
    of a max pooling would be equal, and the result would depend on the CPU's rounding.
    """
    torch.manual_seed(1)
    images = torch.rand(6, 3, 24, 24).to(memory_format=torch.channels_last)
    images[0] *= 0.01
    images[1] = 1 - 0.01 * images[1]
    return images, torch.arange(6) % K
