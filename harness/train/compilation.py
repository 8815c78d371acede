"""Compile models for given batch sizes. Other sizes run eagerly, because recompiling is slower."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LogitsFn = Callable[[Tensor], Tensor]  # images [B, 3, R, R] to logits [B, K]


class CompileMode(NamedTuple):
    """One way to compute a training step, or the attack of an evaluation.

    Attributes:
        torch_mode: `mode` of torch.compile for the model; None runs it eagerly.
        in_cuda_graph: True captures the attack in a CUDA graph, see `CudaGraphAttack`.
    """

    torch_mode: str | None
    in_cuda_graph: bool


MODES = {
    "eager": CompileMode(None, False),
    "compiled": CompileMode("default", False),
    "cuda_graphs": CompileMode("reduce-overhead", False),
    "captured_attack": CompileMode(None, True),
    "compiled_captured_attack": CompileMode("default", True),
}
# Largest number of compiled graphs per function. There is one for each mode, kind of pass, batch
# size and resolution. With torch's default limit of 8, calls beyond it would silently run eagerly.
RECOMPILE_LIMIT = 64


def uses_graphs(mode: str) -> bool:
    """Return True if the mode captures the attack or the whole model in CUDA graphs."""
    return MODES[mode].in_cuda_graph or is_whole_graph(mode)


def is_whole_graph(mode: str) -> bool:
    """Return True if torch captures the whole model in CUDA graphs."""
    return MODES[mode].torch_mode == "reduce-overhead"


def compiled_for(
    function: Callable[..., Tensor], sizes: frozenset[int], mode: str = "default"
) -> Callable[..., Tensor]:
    """Return a form of a function or model that is compiled at the first call of each batch shape.

    A compiled model shares the weights, modes and hooks of the original.

    Args:
        function: Function or model whose first argument is a batch.
        sizes: Batch or micro-batch sizes to compile for. Other batches are computed eagerly.
        mode: `mode` of torch.compile.
    """
    from torch._dynamo import config

    config.recompile_limit = RECOMPILE_LIMIT
    compiled: Callable[..., Tensor] = torch.compile(function, dynamic=False, mode=mode)

    def call(batch: Tensor, *args: object) -> Tensor:
        return (compiled if len(batch) in sizes else function)(batch, *args)

    return call


def reset() -> None:
    """Discard all compiled graphs.

    Models of one class share one `forward`, so the graphs of earlier models would count towards
    RECOMPILE_LIMIT.
    """
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()
