"""Which number format the network computes in. Weights, losses, norms and projections stay in float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose(setting: Literal["auto", "float32", "bf16", "fp16"], device: str) -> Precision:
    """`auto` is bf16 where the device computes in it natively, else float32. fp16, with its loss scaling, is by choice only."""
    if setting != "auto":
        return setting
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if _cpu_computes_bf16() else "float32"


def autocast(precision: Precision, device: str) -> AbstractContextManager[object]:
    """The context to run a forward pass in."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=DTYPES[precision])


def _cpu_computes_bf16() -> bool:
    """By AVX-512's bf16 products (on a Zen 5 they halved the time of a ResNet-18 step) or by tiles (AMX, not measured yet).

    Without them bf16 is emulated: 1.2 to 1.7 times slower than float32 for resnet10 on a Xeon of 2.8 GHz with torch 2.15.
    """
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public ones
    return any(getattr(torch.cpu, question, lambda: False)() for question in questions)
