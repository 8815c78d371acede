"""Keep an exponential moving average of a model's weights during training.

Parameters and BatchNorm statistics are averaged. Integer counters keep the model's values.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


class EmaWeights:
    """Average of a model's weights.

    Call `update` after each step, and evaluate or save the average inside `swapped_in`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start the average at the model's current weights.

        Args:
            model: The model that trains.
            decay: Factor on the old average at each step. Step n uses (1 + n) / (10 + n) if that is
                smaller, so that early steps soon replace the random initial weights.
        """
        self._decay, self._num_steps = decay, 0
        self._live = [
            tensor.detach()
            for tensor in model.state_dict(keep_vars=True).values()
            if tensor.is_floating_point()
        ]
        self._mean = [tensor.detach().clone() for tensor in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Include the model's current weights in the average. Does not wait for the GPU."""
        decay = min(self._decay, (1 + self._num_steps) / (10 + self._num_steps))
        torch._foreach_lerp_(self._mean, self._live, 1 - decay)
        self._num_steps += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the average into the model inside the block; then restore the model's weights."""
        own = [tensor.detach().clone() for tensor in self._live]
        with torch.no_grad():
            torch._foreach_copy_(self._live, self._mean)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._live, own)

    def state_dict(self) -> dict[str, Any] | None:
        """Return the average and the number of updates."""
        return {"mean": self._mean, "num_steps": self._num_steps}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore what `state_dict` returned."""
        assert state is not None, "the checkpoint has no averaged weights"
        for mean, saved in zip(self._mean, state["mean"], strict=True):
            mean.copy_(saved)
        self._num_steps = state["num_steps"]


class NoEma:
    """Replacement of `EmaWeights` that keeps no average."""

    def update(self) -> None:
        """Do nothing."""

    def swapped_in(self) -> AbstractContextManager[None]:
        """Leave the model's weights in place."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any] | None:
        """Return None."""
        return None

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Do nothing."""
