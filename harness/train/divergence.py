"""Detect losses and weights that are not finite, without synchronizing in the training step."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from writers.errors import UserError
from writers.text_names import counted


class DivergedError(UserError):
    """The loss or a weight is not finite."""


def check_finite_loss(loss: float, num_images: int) -> None:
    """Raise DivergedError if the mean loss of an evaluation is not finite.

    The accuracies of a model whose loss is not finite are meaningless.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"The loss over {counted(num_images, 'image')} is {loss} in evaluation: the model's "
            "logits are not finite.",
            "If its training loss grew, lower the learning rate. Otherwise check the pixels and "
            "the loaded weights, run `harness doctor` to check the CPU's kernels, and use "
            "precision: float32.",
        )


class LossWatch:
    """Remember, on the device, the first step whose loss is not finite."""

    def __init__(self, device: str) -> None:
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        self.num_steps = 0

    def add(self, loss: Tensor) -> None:
        """Add the loss of the next step, a scalar on the device. Does not wait for the GPU."""
        bad = (self._first < 0) & ~torch.isfinite(loss)
        self._first.masked_fill_(bad, self.num_steps)
        self.num_steps += 1

    def first_bad(self, tensors: Iterable[Tensor] = ()) -> int | None:
        """Return the first step since the last `clear` with a loss that is not finite.

        Waits for the GPU.

        Args:
            tensors: Weights to check, too. If all losses are finite but a weight is not, the last
                step is returned.

        Returns:
            Step number from 0; None if everything is finite, or if no step was added.
        """
        first = int(self._first)
        if first < 0 and self.num_steps > 0 and not all_finite(tensors):
            first = self.num_steps - 1
        return first if first >= 0 else None

    def clear(self) -> None:
        """Forget all steps, and count from 0 again."""
        self._first.fill_(-1)
        self.num_steps = 0

    def state_dict(self) -> dict[str, int]:
        """Return the state for a checkpoint. Waits for the GPU."""
        return {"first": int(self._first), "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore what `state_dict` returned."""
        self._first.fill_(state["first"])
        self.num_steps = state["num_steps"]


def weights(model: nn.Module) -> list[Tensor]:
    """Return the parameters and BatchNorm statistics, on which the model's outputs depend."""
    return [
        tensor.detach()
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.is_floating_point()
    ]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return True if every value is finite. Waits for the GPU once."""
    not_empty = [tensor for tensor in tensors if tensor.numel()]
    if not not_empty:
        return True
    largest = torch._foreach_norm(not_empty, torch.inf)
    return bool(torch.isfinite(torch.stack([value.float() for value in largest])).all())
