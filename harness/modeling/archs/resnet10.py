"""A small ResNet for CPUs and small images.

It has a 3x3 convolution and a pooling layer, each of stride 2, and then four basic blocks with
configurable widths.
"""

from collections import OrderedDict

from torch import Tensor, nn

from writers.errors import UserError
from writers.text_names import counted

CHANNELS = (32, 64, 128, 256)
STRIDES = (1, 2, 2, 2)


def build(num_classes: int, channels: tuple[int, ...] | None) -> tuple[nn.Module, int]:
    """Return the backbone, which maps [B, 3, R, R] to [B, D], and D.

    Args:
        num_classes: not used, because the caller adds the head.
        channels: widths of the four stages, or None for CHANNELS.

    Raises:
        UserError: `channels` does not have four widths.
    """
    widths = CHANNELS if channels is None else channels
    if len(widths) != len(STRIDES):
        raise UserError(
            f"resnet10 has {counted(len(STRIDES), 'stage')}, but channels has "
            f"{counted(len(widths), 'entry')}: {list(widths)}.",
            f"Give one width for each stage, such as {list(CHANNELS)}.",
        )
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["stem"] = nn.Sequential(
        _convolution(3, widths[0], stride=2),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    num_inputs = widths[0]
    for number, (width, stride) in enumerate(zip(widths, STRIDES, strict=True), start=1):
        parts[f"stage{number}"] = BasicBlock(num_inputs, width, stride)
        num_inputs = width
    parts["pool"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    return nn.Sequential(parts), widths[-1]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 2).

    If the shapes of input and output differ, the shortcut is a 1x1 convolution.
    """

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(num_inputs, num_outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = _convolution(num_outputs, num_outputs)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut = nn.Sequential(
                _convolution(num_inputs, num_outputs, size=1, stride=stride),
                nn.BatchNorm2d(num_outputs),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, D, H / stride, W / stride], rounded up."""
        hidden = self.relu(self.bn1(self.conv1(images)))
        output: Tensor = self.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))
        return output


def _convolution(num_inputs: int, num_outputs: int, *, size: int = 3, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(
        num_inputs, num_outputs, size, stride=stride, padding=size // 2, bias=False
    )
    # torchvision's ResNets are initialized in the same way.
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
