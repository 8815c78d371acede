"""Choose the number format of the network's computations.

Weights and losses are in float32 in all formats, and so are the norms and projections of attacks.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn

from harness.modeling.cpu_kernels import SafeConvolutions, may_be_affected

Precision = Literal["float32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose(setting: Literal["auto", "float32", "bf16", "fp16"], device: str) -> Precision:
    """Resolve the `precision` setting for a device.

    `auto` is bf16 on a GPU with native bf16, and float32 on every other device. `auto` never
    chooses fp16, which needs loss scaling. It never chooses bf16 on a CPU: torch's kernels then
    depend on the CPU's instructions, and some are wrong (harness/modeling/cpu_kernels.py).
    """
    if setting != "auto":
        return setting
    on_gpu = torch.device(device).type == "cuda"
    return (
        "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    )


def autocast(
    precision: Precision, device: str, model: object = None
) -> AbstractContextManager[object]:
    """Return the context of a forward pass.

    The context sets the number format. On a CPU it also installs the workaround for wrong kernels.

    Args:
        precision: number format of the pass.
        device: device of the model.
        model: model that is called in the context; None if unknown. For a model that no wrong
            kernel can affect in float32, the workaround is left out, because it costs 3 to 7 % of
            the time of a step (resnet10 at 48 px and batch 32).
    """
    kind = torch.device(device).type
    if kind == "cpu" and (
        precision != "float32" or not isinstance(model, nn.Module) or may_be_affected(model)
    ):
        return _on_cpu(precision)
    return (
        nullcontext() if precision == "float32" else torch.autocast(kind, dtype=DTYPES[precision])
    )


@contextmanager
def _on_cpu(precision: Precision) -> Iterator[None]:
    reduced = nullcontext() if precision == "float32" else torch.autocast("cpu", DTYPES[precision])
    with reduced, SafeConvolutions():
        yield
