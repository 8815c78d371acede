"""One training step: attack, forward and backward, optimizer. Cold code chooses here, once; the step itself never waits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.settings import AttackSettings
from harness.timer import Timer
from harness.train.attack import pgd
from harness.train.divergence import LossWatch
from harness.train.loss import mean_loss, num_correct
from harness.train.precision import Precision, autocast

Attack = Callable[[Tensor, Tensor], Tensor]     # float images in [0, 1], labels -> images


def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, *, device: str, precision: Precision,
              label_smoothing: float, attack: AttackSettings | None, eps: float, timer: Timer,
              train_mode: Callable[[], object], seed: int = 0) -> "Step":
    """The step that fits the settings. `train_mode` puts each module of the model into its mode, now and only now.

    seed: of attacks that start at random.
    """
    train_mode()
    step = Step(model, optimizer, device, precision, label_smoothing, timer, seed)
    if attack is not None and eps > 0:
        step.attack = _make_attack(model, attack, eps, precision, step.zero_gradients, step.generator)
    return step


class Step:
    """`step(images, labels)` trains on one batch; `totals()` reads what has been counted since it was last called."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: str, precision: Precision,
                 label_smoothing: float, timer: Timer, seed: int) -> None:
        self._model, self._optimizer, self._timer = model, optimizer, timer
        self._device, self._precision, self._label_smoothing = device, precision, label_smoothing
        self._scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16")
        self.attack: Attack | None = None
        self.generator = torch.Generator(device).manual_seed(seed)
        self.zero_gradients = torch.zeros((), dtype=torch.int64, device=device)
        self.watch = LossWatch(device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self._num_images = 0

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """images: uint8 [B, 3, R, R]; labels: int64 [B] or int8 [B, K]; both on the device."""
        if self.attack is not None:
            with self._timer.span("attack"):
                images = self.attack(images.float().div_(255), labels)
        with self._timer.span("forward"):
            with autocast(self._precision, self._device):
                logits = self._model(images)
            loss = mean_loss(logits.float(), labels, self._label_smoothing)
            self._loss += loss.detach() * len(labels)
            self._num_correct += num_correct(logits.detach(), labels)
            self.watch.add(loss.detach())
        with self._timer.span("backward"):
            self._optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()
        self._num_images += len(labels)
        with self._timer.span("optimizer"):
            self._scaler.step(self._optimizer)
            self._scaler.update()

    def totals(self) -> dict[str, float]:
        """Mean loss, training accuracy, images and zero input gradients of the attack. Waits for the GPU: once an epoch."""
        num_images = max(1, self._num_images)
        totals = {"loss": float(self._loss) / num_images, "top1": int(self._num_correct) / num_images,
                  "num_images": self._num_images, "zero_gradients": int(self.zero_gradients)}
        for counter in (self._loss, self._num_correct, self.zero_gradients):
            counter.zero_()
        self._num_images = 0
        self.watch.clear()
        return totals

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the loss scale, where the attack's generator is, and the counts since `totals`."""
        return {"scaler": self._scaler.state_dict(), "generator": self.generator.get_state(), "watch": self.watch.state_dict(),
                "loss": float(self._loss), "num_correct": int(self._num_correct), "num_images": self._num_images,
                "zero_gradients": int(self.zero_gradients)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["generator"])
        self.watch.load_state_dict(state["watch"])
        self._loss.fill_(state["loss"])
        self._num_correct.fill_(state["num_correct"])
        self.zero_gradients.fill_(state["zero_gradients"])
        self._num_images = state["num_images"]


def _make_attack(model: nn.Module, settings: AttackSettings, eps: float, precision: Precision, zero_gradients: Tensor,
                 generator: torch.Generator) -> Attack:
    def attack(images: Tensor, labels: Tensor) -> Tensor:
        return pgd(model, images, labels, norm=settings.norm, eps=eps, steps=settings.steps,
                   step_size=settings.relative_step_size * eps, random_start=settings.random_start,
                   best_iterate=settings.best_iterate, generator=generator, precision=precision,
                   zero_gradients=zero_gradients)

    return attack
