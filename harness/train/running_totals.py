"""Accumulate training loss, accuracy and counts on the device, to read them once per epoch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.system.distributed import ProcessGroup
from harness.train.divergence import LossWatch
from harness.train.learner import Totals
from harness.train.loss import num_correct


class RunningTotals:
    """Totals of the batches since the last `read`.

    Attributes:
        watch: Remembers the first step whose loss was not finite.
        zero_gradients: int64 scalar on the device, to which attacks add their zero gradients.
    """

    def __init__(self, device: str) -> None:
        self.watch = LossWatch(device)
        self.zero_gradients = torch.zeros((), dtype=torch.int64, device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self._num_images = 0

    def add_logits(self, logits: Tensor, labels: Tensor) -> None:
        """Count the correct images of a batch.

        Args:
            logits: [B, K].
            labels: int64 [B], or int8 or float32 [B, K], as for `image_losses`.
        """
        self._num_correct += num_correct(logits.detach(), labels)

    def add_step(self, losses: Sequence[Tensor], num_images: int) -> None:
        """Add one training step.

        Args:
            losses: Scalars on the device whose sum is the mean loss of the batch.
            num_images: Images in the batch.
        """
        loss = losses[0] if len(losses) == 1 else torch.stack(list(losses)).sum()
        self._loss += loss * num_images
        self._num_images += num_images
        self.watch.add(loss)

    def read(self, group: ProcessGroup) -> Totals:
        """Return the totals over all ranks, and reset them. Waits for the GPU."""
        counts = torch.stack([self._num_correct, self.zero_gradients]).cpu()
        counts = torch.cat([counts, torch.tensor([self._num_images])])
        loss = self._loss.cpu()
        group.all_reduce_(counts, loss)
        num_correct, zero_gradients, num_images = counts.tolist()
        totals: Totals = {
            "loss": float(loss) / max(1, num_images),
            "top1": num_correct / max(1, num_images),
            "num_images": num_images,
            "zero_gradients": zero_gradients,
        }
        for counter in (self._loss, self._num_correct, self.zero_gradients):
            counter.zero_()
        self._num_images = 0
        self.watch.clear()
        return totals

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint. Waits for the GPU."""
        return {
            "watch": self.watch.state_dict(),
            "loss": float(self._loss),
            "num_correct": int(self._num_correct),
            "num_images": self._num_images,
            "zero_gradients": int(self.zero_gradients),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.watch.load_state_dict(state["watch"])
        self._loss.fill_(state["loss"])
        self._num_correct.fill_(state["num_correct"])
        self.zero_gradients.fill_(state["zero_gradients"])
        self._num_images = state["num_images"]
