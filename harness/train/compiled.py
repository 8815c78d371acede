"""torch.compile for batches of the usual sizes; an odd last batch runs as it is, for which compiling again would not pay."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

MODES = {"compiled": "default", "cuda_graphs": "reduce-overhead"}      # torch's names for them


class CompiledModel:
    """Stands in for the model: the same weights, modes and hooks."""

    def __init__(self, model: nn.Module, name: str, sizes: frozenset[int]) -> None:
        """name: of MODES. sizes: of the batches, or parts of batches, to compile for."""
        self._model, self._sizes = model, sizes
        self._compiled: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False, mode=MODES[name])

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, R, R] pixels to [B, K] logits."""
        return (self._compiled if len(images) in self._sizes else self._model)(images)
