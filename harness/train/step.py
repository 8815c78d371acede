"""Training steps: attack, forward pass, backward pass and update.

Settings are evaluated when a `TrainStep` is built or compiled. Taking a step never waits for the
GPU.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.config.attack import AttackSettings
from harness.modeling.classifier import Classifier
from harness.modeling.module_modes import local_batch_norm
from harness.modeling.precision import Precision, autocast
from harness.modeling.regularizers import AUX_WEIGHT
from harness.profiling.timer import Timer
from harness.system.distributed import SINGLE_PROCESS, DdpForward, LocalForward, ProcessGroup
from harness.train.attack import Attack, PgdAttack, no_attack, pgd_update
from harness.train.compilation import MODES, LogitsFn, compiled_for
from harness.train.cuda_graph_attack import CudaGraphAttack
from harness.train.divergence import weights
from harness.train.ema import EmaWeights, NoEma
from harness.train.free_adversarial import FreeNoise
from harness.train.l2sp import NO_PENALTY, L2SPPenalty, NoPenalty
from harness.train.learner import Totals
from harness.train.loss import mean_loss
from harness.train.optimizer import set_lr
from harness.train.running_totals import RunningTotals

RANK_SEED_STRIDE = 2**40  # difference between the seeds of neighboring ranks


@dataclass(frozen=True)
class StepConfig:
    """Settings of a training step.

    Attributes:
        peak_lr: Highest learning rate of the schedule.
        device: "cpu" or a CUDA device.
        precision: Number format of forward and backward passes.
        label_smoothing: Fraction of the target spread evenly over all classes.
        attack: Attack on the training images; None trains on clean images.
        eps: Radius of the attack in units of [0, 1] pixels; 0 trains on clean images.
        seed: Seed of random starts of the attack, from which each rank derives another one.
        ema_decay: Decay per step of averaged weights; None keeps no average.
        num_micro_batches: Number of parts into which a batch is split. Their gradients are
            accumulated, and BatchNorm normalizes each part.
    """

    peak_lr: float
    device: str = "cpu"
    precision: Precision = "float32"
    label_smoothing: float = 0.0
    attack: AttackSettings | None = None
    eps: float = 0.0
    seed: int = 0
    ema_decay: float | None = None
    num_micro_batches: int = 1


class TrainStep:
    """Learner that trains a whole model: one optimizer step per batch.

    Attributes:
        model: The model. Each module is in the mode (train or evaluation) that it trains in.
        optimizer: Optimizer of the model's parameters.
        config: Initial settings. `num_micro_batches` below may differ from the one in `config`.
        attack: Maps uint8 images and labels to attacked images. In clean and free adversarial
            training, it returns the images unchanged.
        logits_of: The model, or a compiled form of it.
        compile_mode: Key of `compilation.MODES` in use.
        num_micro_batches: Number of parts into which a batch is split.
        excluded_modes: Compile modes that a checkpoint does not restore, because they failed.
    """

    def __init__(
        self,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        config: StepConfig,
        timer: Timer,
        *,
        group: ProcessGroup = SINGLE_PROCESS,
        penalty: L2SPPenalty | NoPenalty = NO_PENALTY,
    ) -> None:
        self.excluded_modes: frozenset[str] = frozenset()
        self.model, self.config, self.num_micro_batches = model, config, config.num_micro_batches
        self.optimizer, self._timer, self._group, self._penalty = optimizer, timer, group, penalty
        self._scaler = torch.amp.GradScaler(
            torch.device(config.device).type, enabled=config.precision == "fp16"
        )
        self._totals = RunningTotals(config.device)
        # Ranks hold different images, so their random starts differ, too.
        self._generator = torch.Generator(config.device).manual_seed(
            config.seed + group.rank * RANK_SEED_STRIDE
        )
        decay = config.ema_decay
        self._ema: EmaWeights | NoEma = NoEma() if decay is None else EmaWeights(model, decay)
        self._ddp: DdpForward | LocalForward = (
            LocalForward() if group.world_size == 1 else DdpForward(model, group)
        )
        self.compile("eager", 0)

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        """Take one optimizer step.

        Args:
            images: uint8 [B, 3, R, R], channels_last, on the training device.
            labels: classes, int64 [B]; several labels, int8 [B, K], with 1 present, 0 difficult,
                -1 absent; or probabilities of mixed images (MixUp), float32 [B, K].
        """
        weigh = self._ddp.loss_weight(len(labels))
        losses = []
        for x, y, is_last in micro_batches(images, labels, self.num_micro_batches):
            with nullcontext() if is_last else self._ddp.no_sync():
                x = self.attack(x, y)
                loss = self._forward(x, y) * (len(y) / len(labels))
                self._backward(weigh(loss))
            losses.append(loss.detach())
        self._update()
        self._totals.add_step(losses, len(labels))

    def _forward(self, images: Tensor, labels: Tensor, *, count_correct: bool = True) -> Tensor:
        """Return the mean loss, a scalar, of images [B, 3, R, R], uint8 or float in [0, 1]."""
        with self._timer.span("forward"):
            with autocast(self.config.precision, self.config.device, self.model):
                outputs = self._ddp(images, self.logits_of)
            logits, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, None)
            if count_correct:
                self._totals.add_logits(logits, labels)
            smoothing = self.config.label_smoothing
            loss = mean_loss(logits.float(), labels, smoothing)
            if auxiliary is not None:
                loss = loss + AUX_WEIGHT * mean_loss(auxiliary.float(), labels, smoothing)
            return loss

    def _backward(self, loss: Tensor) -> None:
        with self._timer.span("backward"):
            self._scaler.scale(loss).backward()

    def _update(self) -> None:
        with self._timer.span("optimizer"):
            self._penalty.add_gradients(self._unscale_gradients)
            self._scaler.step(self.optimizer)
            self._scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            self._ddp.average_statistics()
            self._ema.update()

    def _unscale_gradients(self) -> None:
        self._scaler.unscale_(self.optimizer)

    @property
    def peak_lr(self) -> float:
        """Highest learning rate of the schedule."""
        return self.config.peak_lr

    def set_rate(self, fraction: float) -> None:
        """Set the learning rate of the next steps, as a fraction of the peak."""
        set_lr(self.optimizer, fraction * self.config.peak_lr)

    @property
    def is_attacked(self) -> bool:
        """True if each step runs `pgd` or `fast`; False in clean and free adversarial training."""
        return self.attack is not no_attack

    def compile(self, mode: str, batch_size: int) -> None:
        """Set the compile mode of the next steps.

        Args:
            mode: Key of `compilation.MODES`.
            batch_size: Images per batch on this rank. Batches of another size run eagerly.
        """
        self.compile_mode, self._batch_size = mode, batch_size
        torch_mode, in_cuda_graph = MODES[mode]
        parts = self.num_micro_batches
        sizes = frozenset((batch_size // parts, -(-batch_size // parts)))
        self.logits_of: LogitsFn = (
            compiled_for(self.model, sizes, torch_mode) if torch_mode else self.model
        )
        self._pgd_update = compiled_for(pgd_update, sizes) if torch_mode else pgd_update
        self.attack = self._make_attack(sizes if in_cuda_graph else None)

    def _make_attack(self, graph_sizes: frozenset[int] | None) -> Attack:
        """Return the timed attack. graph_sizes: batch sizes to capture; None does not capture."""
        config, timer = self.config, self._timer
        if config.attack is None or config.eps == 0 or config.attack.method == "free":
            return no_attack
        pgd_attack = PgdAttack(
            self.model,
            config.attack,
            config.eps,
            precision=config.precision,
            logits_of=self.logits_of,
            generator=self._generator,
            zero_gradients=self._totals.zero_gradients,
            update=self._pgd_update,
        )
        attack = CudaGraphAttack(pgd_attack, graph_sizes) if graph_sizes else pgd_attack

        def timed(images: Tensor, labels: Tensor) -> Tensor:
            with timer.span("attack"):
                return attack(images, labels)

        return timed

    def use_micro_batches(self, num_micro_batches: int) -> None:
        """Split the next batches into this many micro-batches."""
        self.num_micro_batches = num_micro_batches

    @contextmanager
    def without_ddp(self) -> Iterator[None]:
        """Train and read totals without the other ranks inside the block.

        Use it for trial steps: if one rank fails, the others must not wait for it.
        """
        saved = self._ddp, self._group
        self._ddp, self._group = LocalForward(), SINGLE_PROCESS
        try:
            with local_batch_norm(self.model):
                yield
        finally:
            self._ddp, self._group = saved

    @property
    def has_ema(self) -> bool:
        """True if averaged weights are kept."""
        return self.config.ema_decay is not None

    def final_weights(self) -> AbstractContextManager[None]:
        """Put averaged weights, if they are kept, into the model inside the block."""
        return self._ema.swapped_in()

    def first_bad_step(self) -> int | None:
        """Return the first step, on any rank, with a loss or weight that is not finite, or None."""
        steps = self._group.all_gather(self._totals.watch.first_bad(weights(self.model)))
        return min((step for step in steps if step is not None), default=None)

    def totals(self) -> Totals:
        """Return the totals of all ranks since the last call, and reset them. Waits for the GPU."""
        return self._totals.read(self._group)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, and the states of optimizer, loss scale, random starts and totals."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self._ema.state_dict(),
            "scaler": self._scaler.state_dict(),
            "generator": self._generator.get_state(),
            "totals": self._totals.state_dict(),
            "num_micro_batches": self.num_micro_batches,
            "compile_mode": self.compile_mode,
            "batch_size": self._batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; later steps then equal those of the saved run.

        They differ if this learner splits batches into more micro-batches than the saved one, or
        excludes the saved compile mode: it then keeps its own.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        # A step that failed, such as a trial without enough memory, may have left gradients.
        self.optimizer.zero_grad(set_to_none=True)
        self._ema.load_state_dict(state["ema"])
        self._scaler.load_state_dict(state["scaler"])
        self._generator.set_state(state["generator"])
        self._totals.load_state_dict(state["totals"])
        self.num_micro_batches = max(self.num_micro_batches, state["num_micro_batches"])
        if state["compile_mode"] not in {self.compile_mode, *self.excluded_modes}:
            self.compile(state["compile_mode"], state["batch_size"])


class FreeTrainStep(TrainStep):
    """Free adversarial training (Shafahi et al. 2019): several updates per batch.

    Each backward pass computes the gradients of both the weights and the noise on the images.

    Attributes:
        noise: Noise on the images. Each batch starts from the noise of the previous one.
    """

    def __init__(
        self,
        model: Classifier,
        optimizer: torch.optim.Optimizer,
        config: StepConfig,
        timer: Timer,
        *,
        group: ProcessGroup = SINGLE_PROCESS,
        penalty: L2SPPenalty | NoPenalty = NO_PENALTY,
    ) -> None:
        assert config.attack is not None
        assert config.num_micro_batches == 1, "free training keeps one noise for a whole batch"
        super().__init__(model, optimizer, config, timer, group=group, penalty=penalty)
        self.noise = FreeNoise(config.attack, config.eps, self._totals.zero_gradients)

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        """Take one optimizer step per replay of the batch.

        Args:
            images: uint8 [B, 3, R, R], channels_last, on the training device.
            labels: classes, int64 [B]; several labels, int8 [B, K], with 1 present, 0 difficult,
                -1 absent; or probabilities of mixed images (MixUp), float32 [B, K].
        """
        weigh = self._ddp.loss_weight(len(labels))
        pixels = images.float().div_(255)
        num_replays = self.noise.num_replays
        for replay in range(1, num_replays + 1):
            with self._timer.span("attack"):
                noisy = self.noise.add_to(pixels).requires_grad_()
            loss = self._forward(noisy, labels, count_correct=replay == num_replays)
            self._backward(weigh(loss))
            with self._timer.span("attack"):
                assert noisy.grad is not None
                self.noise.ascend(noisy.grad)
            self._update()
        self._totals.add_step([loss.detach()], len(labels))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of `TrainStep` and the noise, which is None before the first step."""
        return {**super().state_dict(), "noise": self.noise.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        delta = state["noise"]
        self.noise.delta = None if delta is None else delta.to(self.config.device)


def make_step(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    config: StepConfig,
    timer: Timer,
    *,
    group: ProcessGroup = SINGLE_PROCESS,
    penalty: L2SPPenalty | NoPenalty = NO_PENALTY,
) -> TrainStep:
    """Build the training step that the settings describe.

    Args:
        model: Maps uint8 images, or floats in [0, 1], [B, 3, R, R] to logits [B, K]. Each module
            is in the mode (train or evaluation) that it trains in.
        optimizer: Optimizer of the model's parameters, see `make_sgd`.
        config: Settings of the step; `attack` and `eps` select `TrainStep` or `FreeTrainStep`.
        timer: Receives the time of each phase of a step.
        group: Ranks that train the model together, on different images of each batch.
        penalty: Adds its gradients to those of the loss before each update.
    """
    is_free = config.attack is not None and config.attack.method == "free" and config.eps > 0
    kind = FreeTrainStep if is_free else TrainStep
    return kind(model, optimizer, config, timer, group=group, penalty=penalty)


def micro_batches(
    images: Tensor, labels: Tensor, num_micro_batches: int
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Split a batch, and yield the images and labels of each part, and True for the last part.

    Images and labels are split along their first dimension, B.

    A small batch gets fewer parts, so that each has at least two images, because BatchNorm has no
    variance for one image. A batch of one image is not split.
    """
    num_parts = max(1, min(num_micro_batches, len(labels) // 2))
    if num_parts == 1:
        yield images, labels, True
        return
    parts = zip(images.tensor_split(num_parts), labels.tensor_split(num_parts), strict=True)
    for number, (x, y) in enumerate(parts, 1):
        yield x, y, number == num_parts
