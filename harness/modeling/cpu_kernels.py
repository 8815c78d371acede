"""Avoid two kinds of convolution kernels of torch on CPUs that are wrong.

Measured with torch 2.14.1 (oneDNN 3.12.0) on a Xeon with AVX-512, batches of 13 images,
channels_last, two threads:

* A 1x1 convolution of stride 2 with fewer than 16 input channels: its backward pass writes outside
  its memory, in float32 and bf16. The process crashes (SIGSEGV, SIGABRT), or later results are
  wrong. Limited to AVX2, the weights' gradient is wrong for fewer than 8 channels. See
  uxlfoundation/oneDNN#6035.
* A 3x3, 5x5 or 7x7 convolution of stride 2 whose input has one pixel, in bf16: the weights'
  gradient holds uninitialized memory.

No error was seen with one thread, without channels_last, with stride 1 or limited to SSE4.1.
Forward passes are right. `harness doctor` repeats the comparison on this machine
(harness/cli/cpu_check.py).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

BLOCK = 16  # channels that oneDNN's kernels take at once; narrower convolutions are affected


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

    A module with its own weights that is neither torch's nor a Conv2d may call a convolution
    function, so it counts as affected.
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

    A narrow strided 1x1 convolution takes every s-th pixel first and then has stride 1, which is
    the same sum. A strided convolution in bf16 or fp16 of a map that is one pixel wide or high is
    computed in float32 and rounded afterwards.

    Args:
        input: [B, C, H, W], on any device; only CPU tensors are treated differently.
        padding: "same" is left to torch, which refuses it with a stride.
        weight: [K, C / groups, h, w].

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
