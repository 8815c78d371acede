"""Which number format the network computes in. Weights, losses, norms and projections stay in float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose(setting: Literal["auto", "float32", "bf16", "fp16"], device: str) -> Precision:
    """Resolve the `precision` setting for a device.

    `auto` is bf16 on a GPU with native bf16, and float32 on every other device. On every CPU it is float32: torch's
    bf16 kernels depend on the CPU's instructions, and some of them are wrong. bf16 on a CPU, and fp16 with its loss scaling, are
    used only if named.
    """
    if setting != "auto":
        return setting
    on_gpu = torch.device(device).type == "cuda"
    return (
        "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    )


def autocast(precision: Precision, device: str) -> AbstractContextManager[object]:
    """The context to run a forward pass in."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=DTYPES[precision])
