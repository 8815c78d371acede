"""How much a training step computes, and how much the GPU could."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.settings import AttackSettings
from harness.train.precision import Precision

# Dense tensor-core FLOP/s of 16-bit formats with 32-bit sums, from NVIDIA's data sheets; the first name that fits counts.
PEAKS = (("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989e12), ("H200", 989e12), ("GH200", 989e12), ("B200", 2250e12),
         ("A100", 312e12), ("A800", 312e12), ("L40S", 362e12), ("V100-SXM2", 125e12), ("RTX 4090", 165e12),
         ("RTX 3090", 71e12), ("Tesla T4", 65e12))
FP16_ONLY = ("V100-SXM2", "Tesla T4")


def training_flops(model: nn.Module, resolution: int, attack: AttackSettings | None) -> float:
    """Floating-point operations of one training step for one image, a multiplication and an addition counted as two.

    Counted by torch over the convolutions and matrix products of a copy that computes nothing (device "meta").
    attack: of training; None for clean training.
    """
    twin = copy.deepcopy(model).to("meta").train()

    def count(*, pixels: bool, weights: bool) -> float:
        """A forward pass, and the gradients of these."""
        images = torch.empty(2, 3, resolution, resolution, device="meta", requires_grad=pixels)
        twin.requires_grad_(weights)
        with FlopCounterMode(display=False) as counter:
            loss = twin(images).sum()
            if pixels or weights:
                loss.backward()
        return counter.get_total_flops() / len(images)

    if attack is None:
        return count(pixels=False, weights=True)
    if attack.method == "free":
        return (attack.replays or 1) * count(pixels=True, weights=True)
    attacking = attack.steps * count(pixels=True, weights=False)
    looking = count(pixels=False, weights=False) if attack.best_iterate else 0.0
    return attacking + looking + count(pixels=False, weights=True)


def peak_flops(gpu: str, precision: Precision) -> float | None:
    """The FLOP/s that the GPU of that name is sold for; None where this is not known, and for float32, which has several."""
    if precision == "float32":
        return None
    for name, peak in PEAKS:
        if name in gpu:
            return None if precision == "bf16" and name in FP16_ONLY else peak
    return None
