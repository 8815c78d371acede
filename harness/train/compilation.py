"""torch.compile for batches of the usual sizes; an odd last batch runs as it is, for which compiling again would not pay."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

# Name of a way to compute -> torch.compile's mode, None: none; and whether the attack is captured (harness/train/cuda_graph_attack.py).
MODES: dict[str, tuple[str | None, bool]] = {
    "eager": (None, False),
    "compiled": ("default", False),
    "cuda_graphs": ("reduce-overhead", False),
    "captured_attack": (None, True),
    "compiled_captured_attack": ("default", True),
}
RECOMPILE_LIMIT = 64  # of one function's graphs: beyond, torch computes eagerly, and only its log says so; its own limit is 8


class CompiledModel:
    """Stands in for the model: the same weights, modes and hooks."""

    def __init__(self, model: nn.Module, mode: str, sizes: frozenset[int]) -> None:
        """mode: torch's name for it. sizes: of the batches, or parts of batches, to compile for."""
        from torch._dynamo import config

        config.recompile_limit = (
            RECOMPILE_LIMIT  # a graph per mode, kind of pass, size and resolution
        )
        self._model, self._sizes = model, sizes
        self._compiled: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False, mode=mode)

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, R, R] pixels to [B, K] logits."""
        return (self._compiled if len(images) in self._sizes else self._model)(images)


def forget() -> None:
    """Whatever is compiled. All models have one `forward`, so the graphs of one that is gone count against those to come."""
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()
