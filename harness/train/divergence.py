"""A run whose loss or weights are not finite any more: noticed on the device, at no cost to the step, and told in words."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from writers.errors import UserError


class Diverged(UserError):
    """The loss, or a weight, is not a finite number."""


def check_evaluated(loss: float, num_images: int) -> None:
    """Raise Diverged where the mean loss of an evaluation is not finite: such a model answers nothing."""
    if not math.isfinite(loss):
        raise Diverged(
            f"The loss over {num_images:,} images is {loss} in evaluation: the model's logits are not finite.",
            "If its training loss grew, lower the learning rate. If not, check the pixels and the weights that were loaded, run "
            "`harness doctor`, which checks the CPU's kernels, and use precision: float32.",
        )


class LossWatch:
    """Remembers, on the device, the first step whose loss was not finite."""

    def __init__(self, device: str) -> None:
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        self.num_steps = 0

    def add(self, loss: Tensor) -> None:
        """The loss of the next step, a scalar on the device. Does not wait for the GPU."""
        bad = (self._first < 0) & ~torch.isfinite(loss)
        self._first.masked_fill_(bad, self.num_steps)
        self.num_steps += 1

    def first_bad(self, tensors: Iterable[Tensor] = ()) -> int | None:
        """The first step since the last `clear` with a loss that is not finite. Waits for the GPU.

        tensors: where one of them is not finite although every loss was, the last step is to blame.
        """
        first = int(self._first)
        if first < 0 and self.num_steps > 0 and not all_finite(tensors):
            first = self.num_steps - 1
        return first if first >= 0 else None

    def clear(self) -> None:
        self._first.fill_(-1)
        self.num_steps = 0

    def state_dict(self) -> dict[str, int]:
        return {"first": int(self._first), "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._first.fill_(state["first"])
        self.num_steps = state["num_steps"]


def weights(model: nn.Module) -> list[Tensor]:
    """Parameters and BatchNorm's statistics: whatever a model's answers depend on."""
    return [
        tensor.detach()
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.is_floating_point()
    ]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value is finite, by one wait for the GPU."""
    found = [tensor for tensor in tensors if tensor.numel()]
    if not found:
        return True
    largest = torch._foreach_norm(found, torch.inf)
    return bool(torch.isfinite(torch.stack([value.float() for value in largest])).all())
