"""Networks whose results do not depend on the rounding of a CPU's kernels, for comparisons with an oracle."""

from torch import Tensor, nn


def make_smooth(model: nn.Module) -> nn.Module:
    """Replace ReLU by GELU and max pooling (3x3, stride 2) by average pooling, in place.

    The gradient is then continuous, so that a small rounding error changes a step of an attack only
    a little. At a kink of ReLU, or at a tie of max pooling, the error would lead to another step.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.GELU())
            elif isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(3, stride=2, padding=1))
    return model


def make_float64(model: nn.Module) -> nn.Module:
    """Make the model compute in float64 on uint8 pixels and on floats in [0, 1] of any type, in place."""
    model.double().register_forward_pre_hook(lambda _, inputs: as_float64(inputs[0]))
    return model


def as_float64(images: Tensor) -> Tensor:
    return images.double() if images.is_floating_point() else images.double().div(255)
