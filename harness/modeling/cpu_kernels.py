"""Avoid two kinds of wrong convolution kernels that torch uses on CPUs.

Measured with torch 2.14.1 (oneDNN 3.12.0) on a Xeon with AVX-512, batches of 13 images,
channels_last, two threads:

* 1x1 convolutions of stride 2 with fewer than 16 input channels, in float32 and bf16. The backward
  pass writes outside its memory: the process crashes (SIGSEGV, SIGABRT), or later results are
  wrong. If oneDNN is limited to AVX2, the gradient of the weights is wrong for fewer than 8
  channels. See uxlfoundation/oneDNN#6035.
* 3x3, 5x5 and 7x7 convolutions of stride 2 on an input of one pixel, in bf16. The gradient of the
  weights contains uninitialized memory.

No error was seen with one thread, without channels_last, with stride 1, or with oneDNN limited to
SSE4.1. Forward passes are right. `harness doctor` repeats the comparison on this machine
(harness/cli/cpu_check.py).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

BLOCK = 16  # channels that a kernel processes at once; convolutions with fewer are affected


class SafeConvolutions(TorchFunctionMode):
    """Context in which `torch.conv2d` avoids the wrong kernels. Other functions are unchanged."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d:
            return conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def may_be_affected(model: nn.Module) -> bool:
    """Return False only if no convolution of the model can use a wrong kernel in float32.

    A Conv2d is affected if it is 1x1 and strided, and has fewer than BLOCK input channels (per
    group) or output channels. Any other module that is not from torch.nn and directly contains
    weights counts as affected, because it may call a convolution function.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            if max(module.stride) > 1 and _is_narrow(module.weight):
                return True
        elif not type(module).__module__.startswith("torch.nn.") and any(
            True for _ in module.parameters(recurse=False)
        ):
            return True
    return False


def conv2d(
    input: Tensor,  # torch's parameter name, for keyword arguments
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """Compute torch.conv2d without the kernels that are wrong on CPUs.

    A strided 1x1 convolution with few channels is computed with stride 1 on every s-th pixel, which
    gives the same sums. A strided convolution in bf16 or fp16, of a map that is one pixel wide or
    high, is computed in float32 and then rounded.

    Args:
        input: [B, C, H, W] on any device; the workarounds apply to CPU tensors only.
        weight: [K, C / groups, h, w].
        bias: [K], or None.
        stride: as in torch.conv2d.
        padding: as in torch.conv2d, which refuses "same" with a stride.
        dilation: as in torch.conv2d.
        groups: as in torch.conv2d.

    Returns:
        [B, K, H', W'] in the dtype that torch.conv2d returns.
    """
    steps = _pair(stride)
    if input.device.type == "cpu" and max(steps) > 1 and padding != "same":
        if _is_narrow(weight):
            border = (0, 0) if isinstance(padding, str) else _pair(padding)
            if max(border) > 0:
                input = functional.pad(input, (border[1], border[1], border[0], border[0]))
            input = input[..., :: steps[0], :: steps[1]]
            stride, padding = 1, 0
        elif _is_reduced(input) and min(input.shape[2:]) == 1:
            dtype = _reduced_dtype(input)
            with torch.autocast("cpu", enabled=False):
                exact = functional.conv2d(
                    input.float(),
                    weight.float(),
                    None if bias is None else bias.float(),
                    stride,
                    padding,
                    dilation,
                    groups,
                )
            return exact.to(dtype)
    return functional.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _is_narrow(weight: Tensor) -> bool:
    return weight.shape[2:] == (1, 1) and min(weight.shape[:2]) < BLOCK


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _reduced_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which autocast computes a convolution of `tensor`."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else tensor.dtype


def _is_reduced(tensor: Tensor) -> bool:
    return _reduced_dtype(tensor) in (torch.bfloat16, torch.float16)
