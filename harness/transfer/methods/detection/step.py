"""Training step of a detector, which minimizes the sum of Faster R-CNN's four losses."""

from typing import Any

import torch
from torch import Tensor

from harness.modeling.precision import Precision, autocast
from harness.profiling.timer import Timer
from harness.runner.context import OutOfMemoryError
from harness.system.distributed import SINGLE_PROCESS
from harness.system.out_of_memory import is_out_of_memory
from harness.train.divergence import weights
from harness.train.learner import Totals
from harness.train.optimizer import set_lr
from harness.train.running_totals import RunningTotals
from harness.transfer.methods.detection.network import Detector
from writers.text_names import counted

Targets = list[dict[str, Tensor]]


class DetectionStep:
    """Learner that trains a detector; see `harness.train.learner.Learner`.

    Its `train_batch` takes a list of images of varying size instead of a tensor, and targets with
    boxes instead of labels.
    """

    def __init__(
        self,
        model: Detector,
        optimizer: torch.optim.Optimizer,
        *,
        peak_lr: float,
        device: str,
        precision: Precision,
        timer: Timer,
    ) -> None:
        self.model, self.optimizer, self.peak_lr = model, optimizer, peak_lr
        self._device, self._precision, self._timer = device, precision, timer
        self._totals = RunningTotals(device)
        self._scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16")

    def set_rate(self, fraction: float) -> None:
        """Set the learning rate of the next steps, as a fraction of the peak."""
        set_lr(self.optimizer, fraction * self.peak_lr)

    def train_batch(self, images: list[Tensor], targets: Targets) -> None:
        """Take one optimizer step. Waits for the GPU, because torchvision's samplers do.

        Args:
            images: for each image, uint8 [3, H, W] on the training device.
            targets: for each image, `boxes`, float32 [n, 4] in pixels, and `labels`, int64 [n],
                from 1.

        Raises:
            OutOfMemoryError: the batch does not fit in memory.
        """
        exhausted = False
        try:
            self._train(images, targets)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            exhausted = True
        # Outside the except block: the traceback would keep the step's tensors alive.
        if exhausted:
            sides = [max(image.shape[side] for image in images) for side in (-1, -2)]
            raise OutOfMemoryError(
                f"There is not enough memory to train on {counted(len(images), 'image')} of up to "
                f"{sides[0]} x {sides[1]} pixels.",
                "Lower batch_size and lrs by the same factor, or lower short_side.",
            )

    def _train(self, images: list[Tensor], targets: Targets) -> None:
        with self._timer.span("forward"):
            with autocast(self._precision, self._device, self.model):
                losses = self.model(images, targets)
            loss = torch.stack([part.float() for part in losses.values()]).sum()
        with self._timer.span("backward"):
            self._scaler.scale(loss).backward()
        with self._timer.span("optimizer"):
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        self._totals.add_step([loss.detach()], len(images))

    def first_bad_step(self) -> int | None:
        """Return the first step with a loss or weight that is not finite, or None.

        Waits for the GPU.
        """
        return self._totals.watch.first_bad(weights(self.model))

    def totals(self) -> Totals:
        """Return the totals since the last call, and reset them; `top1` is 0."""
        return self._totals.read(SINGLE_PROCESS)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later steps and the next call of `totals` depend on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "totals": self._totals.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self._totals.load_state_dict(state["totals"])
