"""Blur before strided convolutions, with a 3x3 binomial filter, to avoid aliasing (Zhang 2019).

The filters are placed as in ffcv-imagenet.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_CHANNELS = 16  # input channels; excludes the first convolution, whose inputs are pixels


class BlurredConv2d(nn.Conv2d):
    """Convolution that blurs its input first.

    Its weights have the same names as without blurring, so a network without blurring can load
    them.
    """

    blur: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, D, H', W']."""
        filters = self.blur.to(images.dtype).expand(self.in_channels, 1, 3, 3)
        return super().forward(
            functional.conv2d(images, filters, padding=1, groups=self.in_channels)
        )


def add_blur_pool(network: nn.Module) -> int:
    """Replace, in place, each strided nn.Conv2d that has at least MIN_CHANNELS input channels.

    Returns:
        Number of convolutions that were replaced.
    """
    filters = torch.tensor([1.0, 2.0, 1.0])
    strided = [
        module
        for module in network.modules()
        if type(module) is nn.Conv2d
        and max(module.stride) > 1
        and module.in_channels >= MIN_CHANNELS
    ]
    for module in strided:
        module.__class__ = BlurredConv2d  # same parameters and names
        module.register_buffer("blur", filters.outer(filters)[None, None] / 16, persistent=False)
    return len(strided)
