"""Count the floating-point operations of a training step, and look up peak rates of GPUs."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from harness.config.attack import AttackSettings
from harness.modeling.precision import Precision

# Part of a GPU's name -> dense tensor-core FLOP/s of 16-bit formats with 32-bit accumulation, from
# NVIDIA's data sheets. The first entry that matches is taken.
PEAKS = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("V100-SXM2", 125e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("Tesla T4", 65e12),
)
FP16_ONLY = ("V100-SXM2", "Tesla T4")


def training_flops(
    model: nn.Module, resolution: int, attack: AttackSettings | None
) -> float | None:
    """Count the floating-point operations of a training step per image.

    Counts the convolutions and matrix products in a forward pass of one black image through a copy
    of the model on the CPU; a multiply-add counts as two operations. (The "meta" device would
    compute nothing, but imports all of torch.compile, which takes longer.) The gradients of weights
    and of inputs are assumed to need as many operations as a forward pass each. torch's own count
    of backward passes treats depthwise convolutions as dense, which gives five times too many for
    an EfficientNet (torch 2.15).

    Args:
        model: the network.
        resolution: side of the images, in pixels.
        attack: attack in training; None for clean training.

    Returns:
        Operations per image, or None if the model cannot run on the CPU.
    """
    forward = inference_flops(model, resolution)
    return (
        None
        if forward is None
        else 3.0 * forward * (1 + (attack.num_passes if attack is not None else 0.0))
    )


def inference_flops(model: nn.Module, resolution: int) -> float | None:
    """Count the floating-point operations of a forward pass per image.

    Returns None if the model cannot run on the CPU. A multiply-add counts as two operations.
    """
    twin = copy.deepcopy(model).to("cpu").eval()
    try:
        # Enable gradients: without them, attention uses kernels that have no FLOP formula.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounter() as counter:  # type: ignore[no-untyped-call]
            twin(torch.zeros(1, 3, resolution, resolution))
    except (NotImplementedError, RuntimeError) as error:
        print(
            f"The model's operations cannot be counted: {next(iter(str(error).splitlines()), '')}"
        )
        return None
    return float(counter.num_flops)


class FlopCounter(TorchDispatchMode):
    """Count with the formulas of torch's FlopCounterMode, without importing torch.compile."""

    num_flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.num_flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def peak_flops(gpu: str, precision: Precision) -> float | None:
    """Return the nominal peak FLOP/s of a GPU.

    Args:
        gpu: name of the GPU, as torch reports it.
        precision: number format of the computation.

    Returns:
        Operations per second. None if the GPU is unknown or a MIG instance, if it has no rate for
        bf16, or if the precision is float32, which has several rates.
    """
    if precision == "float32" or " MIG " in gpu:
        return None
    for name, peak in PEAKS:
        if name in gpu:
            return None if precision == "bf16" and name in FP16_ONLY else peak
    return None
