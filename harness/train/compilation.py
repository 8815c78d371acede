"""torch.compile for batches of the usual sizes. Other sizes run eagerly: recompiling costs more."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LogitsFn = Callable[[Tensor], Tensor]  # images [B, 3, R, R] to logits [B, K]


class CompileMode(NamedTuple):
    """One way to compute a training step.

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
# Graphs per function: one for each mode, kind of pass, batch size and resolution. Above torch's own
# limit of 8 it silently computes eagerly.
RECOMPILE_LIMIT = 64


def uses_graphs(mode: str) -> bool:
    """Return True if the mode captures CUDA graphs: of the attack, or of the whole model."""
    return MODES[mode].in_cuda_graph or is_whole_graph(mode)


def is_whole_graph(mode: str) -> bool:
    """Return True if torch captures the whole model in CUDA graphs."""
    return MODES[mode].torch_mode == "reduce-overhead"


def compiled_for(
    function: Callable[..., Tensor], sizes: frozenset[int], mode: str = "default"
) -> Callable[..., Tensor]:
    """Return a function or model that is compiled for batches of these sizes, at the first call.

    A compiled model has the same weights, modes and hooks.

    Args:
        function: Its first argument is a batch.
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

    Models of one class share one `forward`, so graphs of earlier models count against
    RECOMPILE_LIMIT.
    """
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()
