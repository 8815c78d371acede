"""One training step: attack, forward and backward, optimizer. Cold code chooses here, once; the step itself never waits."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from harness.config.attack import AttackSettings
from harness.modeling.precision import Precision, autocast
from harness.modeling.regularizers import AUX_WEIGHT
from harness.profiling.timer import Timer
from harness.system.distributed import SINGLE_PROCESS, DdpForward, ProcessGroup
from harness.train.attack import pgd
from harness.train.divergence import LossWatch
from harness.train.ema import WeightAverage
from harness.train.free_adversarial import FreeNoise
from harness.train.loss import mean_loss, num_correct

Attack = Callable[[Tensor, Tensor], Tensor]  # uint8 images, labels -> float images in [0, 1]
Weight = Callable[[], Tensor]  # of a process's mean loss in the batch's
RANK_SEEDS = 2**40  # from one process's seed of random starts to the next one's


def make_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    device: str,
    precision: Precision,
    label_smoothing: float,
    attack: AttackSettings | None,
    eps: float,
    timer: Timer,
    train_mode: Callable[[], object],
    seed: int = 0,
    average: WeightAverage | None = None,
    num_parts: int = 1,
    group: ProcessGroup = SINGLE_PROCESS,
) -> "Step":
    """The step that fits the settings. `train_mode` puts each module of the model into its mode, now and only now.

    seed: of attacks that start at random. average: is told of each update. num_parts: a batch goes through the model in so
    many parts, whose gradients add up to the batch's; BatchNorm sees the parts. group: other processes train on other images
    of each batch, and all take the same step.
    """
    train_mode()
    step = Step(
        model, optimizer, device, precision, label_smoothing, timer, seed, average, num_parts, group
    )
    if attack is not None and eps > 0:
        if attack.method == "free":
            assert num_parts == 1, "free keeps one noise for a whole batch"
            step.free = FreeNoise(attack, eps, step.zero_gradients)
        else:
            step.attack = _make_attack(step, attack, eps)
    return step


class Step:
    """`step(images, labels)` trains on one batch; `totals()` reads what has been counted since it was last called."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: str,
        precision: Precision,
        label_smoothing: float,
        timer: Timer,
        seed: int,
        average: WeightAverage | None,
        num_parts: int,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.model, self._optimizer, self._timer, self._average = model, optimizer, timer, average
        self.precision: Precision = precision
        self._device, self._label_smoothing = device, label_smoothing
        self._scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16")
        self.logits_of: Callable[[Tensor], Tensor] = model  # or a compiled stand-in
        self.attack: Attack | None = None
        self.free: FreeNoise | None = None
        self.num_parts = num_parts
        self._group = group
        self._ddp_forward = DdpForward(model, group) if group.world_size > 1 else None
        # Called between backward and update, with gradients unscaled and of the batch's mean loss: for a penalty's own.
        self.add_gradients: Callable[[], None] | None = None
        self.alone = False  # True: steps of this process only, for trials, which may fail in one and not in another
        # Attacks start elsewhere in each process, which has other images.
        self.generator = torch.Generator(device).manual_seed(seed + group.rank * RANK_SEEDS)
        self.zero_gradients = torch.zeros((), dtype=torch.int64, device=device)
        self.watch = LossWatch(device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self._num_images = 0

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """images: uint8 [B, 3, R, R]; labels: int64 [B] or int8 [B, K]; both on the device."""
        weight = self._ddp.loss_weight(len(labels)) if self._ddp else None
        if self.free is not None:
            loss = self._replay(self.free, images, labels, weight)
        elif self.num_parts == 1:
            loss = self._backward(images, labels, 1.0, weight)
            self._update()
        else:
            num_parts = max(
                1, min(self.num_parts, len(labels) // 2)
            )  # one image has no variance for BatchNorm
            parts = zip(images.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True)
            losses = []
            for number, (part, part_labels) in enumerate(parts, 1):
                with self._ddp.no_sync() if self._ddp and number < num_parts else nullcontext():
                    losses.append(
                        self._backward(part, part_labels, len(part_labels) / len(labels), weight)
                    )
            loss = torch.stack(losses).sum()
            self._update()
        self._loss += loss * len(labels)
        self._num_images += len(labels)
        self.watch.add(loss)

    @property
    def _ddp(self) -> DdpForward | None:
        return None if self.alone else self._ddp_forward

    def _backward(
        self, images: Tensor, labels: Tensor, share: float, weight: Weight | None
    ) -> Tensor:
        """Add the gradients of these images, which are that share of this process's; returns their share of its mean loss."""
        if self.attack is not None:
            with self._timer.span("attack"):
                images = self.attack(images, labels)
        with self._timer.span("forward"):
            loss = self._forward(images, labels) * share
        with self._timer.span("backward"):
            self._scaler.scale(loss if weight is None else loss * weight()).backward()
        return loss.detach()

    def _replay(
        self, free: FreeNoise, images: Tensor, labels: Tensor, weight: Weight | None
    ) -> Tensor:
        """Several updates on one batch; each backward pass also moves the noise. Returns the loss of the last."""
        pixels = images.float().div_(255)
        for replay in range(free.num_replays):
            with self._timer.span("attack"):
                moved = free.add_to(pixels).requires_grad_()
            with self._timer.span("forward"):
                loss = self._forward(moved, labels, counted=replay == free.num_replays - 1)
            with self._timer.span("backward"):
                self._scaler.scale(loss if weight is None else loss * weight()).backward()
            with self._timer.span("attack"):
                assert moved.grad is not None
                free.move(moved.grad)
            self._update()
        return loss.detach()

    def _forward(self, images: Tensor, labels: Tensor, *, counted: bool = True) -> Tensor:
        with autocast(self.precision, self._device, self.model):
            answers = self._ddp(images, self.logits_of) if self._ddp else self.logits_of(images)
        logits, auxiliary = answers if isinstance(answers, tuple) else (answers, None)
        if counted:
            self._num_correct += num_correct(logits.detach(), labels)
        loss = mean_loss(logits.float(), labels, self._label_smoothing)
        if auxiliary is not None:
            loss = loss + AUX_WEIGHT * mean_loss(auxiliary.float(), labels, self._label_smoothing)
        return loss

    def _update(self) -> None:
        with self._timer.span("optimizer"):
            if self.add_gradients is not None:
                self._scaler.unscale_(self._optimizer)
                self.add_gradients()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
            if self._ddp:
                self._ddp.average_statistics()
            if self._average is not None:
                self._average.update()

    def totals(self) -> dict[str, float]:
        """Mean loss, training accuracy, images and zero input gradients of the attack, of all processes together. Waits for
        the GPU: once an epoch."""
        counts = torch.stack([self._num_correct, self.zero_gradients]).cpu()
        counts = torch.cat([counts, torch.tensor([self._num_images])])
        loss = self._loss.cpu()
        self._group.all_reduce_(counts, loss)
        num_correct, zero_gradients, num_seen = counts.tolist()
        num_images = max(1, num_seen)
        totals = {
            "loss": float(loss) / num_images,
            "top1": num_correct / num_images,
            "num_images": num_seen,
            "zero_gradients": zero_gradients,
        }
        for counter in (self._loss, self._num_correct, self.zero_gradients):
            counter.zero_()
        self._num_images = 0
        self.watch.clear()
        return totals

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the loss scale, what attacks remember, and the counts since `totals`."""
        return {
            "scaler": self._scaler.state_dict(),
            "generator": self.generator.get_state(),
            "watch": self.watch.state_dict(),
            "loss": float(self._loss),
            "num_correct": int(self._num_correct),
            "num_images": self._num_images,
            "zero_gradients": int(self.zero_gradients),
            "num_parts": self.num_parts,
            "noise": self.free.noise if self.free else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["generator"])
        self.watch.load_state_dict(state["watch"])
        self._loss.fill_(state["loss"])
        self._num_correct.fill_(state["num_correct"])
        self.zero_gradients.fill_(state["zero_gradients"])
        self._num_images, self.num_parts = (
            state["num_images"],
            max(self.num_parts, state["num_parts"]),
        )
        if self.free is not None:  # None: as before the first step
            self.free.noise = None if state["noise"] is None else state["noise"].to(self._device)


def _make_attack(step: Step, settings: AttackSettings, eps: float) -> Attack:
    """PGD and its one-step relative `fast`; the radius is that of the images' resolution."""

    def attack(images: Tensor, labels: Tensor) -> Tensor:
        radius = settings.eps_of(eps, images.shape[-1])
        return pgd(
            step.model,
            images.float().div_(255),
            labels,
            norm=settings.norm,
            eps=radius,
            steps=settings.steps,
            step_size=settings.step_length(radius),
            random_start=settings.random_start,
            best_iterate=settings.best_iterate,
            batch_norm=settings.batch_norm,
            generator=step.generator,
            precision=step.precision,
            zero_gradients=step.zero_gradients,
            logits_of=step.logits_of,
        )

    return attack
