"""An exponential moving average of a model's weights, kept beside it while it trains.

Of parameters and BatchNorm's statistics; counters stay the model's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """The averaged weights; `update` after each step, `in_place` to look at them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """decay: per step. The first steps have a smaller one, (1 + n) / (10 + n), so that the random weights are forgotten."""
        self._decay, self._num_steps = decay, 0
        self._live = [
            tensor.detach()
            for tensor in model.state_dict(keep_vars=True).values()
            if tensor.is_floating_point()
        ]
        self._mean = [tensor.detach().clone() for tensor in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step's weights in. Does not wait for the GPU."""
        decay = min(self._decay, (1 + self._num_steps) / (10 + self._num_steps))
        torch._foreach_lerp_(self._mean, self._live, 1 - decay)
        self._num_steps += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again behind."""
        own = [tensor.detach().clone() for tensor in self._live]
        with torch.no_grad():
            torch._foreach_copy_(self._live, self._mean)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._live, own)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "num_steps": self._num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for mine, saved in zip(self._mean, state["mean"], strict=True):
            mine.copy_(saved)
        self._num_steps = state["num_steps"]
