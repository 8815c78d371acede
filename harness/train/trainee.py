"""A whole model as a trainee of `fit`."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from harness.config.attack import AttackSettings
from harness.config.train import ScheduleSettings
from harness.modeling.classifier import Classifier
from harness.modeling.precision import Precision
from harness.profiling.timer import Timer
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from harness.train.compilation import MODES, CompiledModel
from harness.train.cuda_graph_attack import CapturedAttack
from harness.train.divergence import weights
from harness.train.ema import WeightAverage
from harness.train.fit import Trainee
from harness.train.optimizer import make_sgd, set_lr
from harness.train.step import make_step

REPLAY_S = 1.5  # at most, and
REPLAY_SHARE = 0.05  # at most this share of the training time
MIN_REPLAY_STEPS = 3


class ModelTrainee:
    """A model, its optimizer and its step; with an average, the model that it ends in is the averaged one."""

    def __init__(
        self,
        model: Classifier,
        schedule: ScheduleSettings,
        peak_lr: float,
        *,
        device: str,
        precision: Precision,
        label_smoothing: float,
        timer: Timer,
        train_mode: Callable[[], object],
        attack: AttackSettings | None = None,
        eps: float = 0.0,
        seed: int = 0,
        ema_decay: float | None = None,
        num_parts: int = 1,
        group: ProcessGroup = SINGLE_PROCESS,
        lr_ratios: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        """train_mode: puts each module of the model into its mode for training. lr_ratios: see `make_sgd`. The rest: see
        `make_step`."""
        self.model, self.peak_lr, self._group = model, peak_lr, group
        self.optimizer = make_sgd(model, schedule, peak_lr, lr_ratios)
        self.average = WeightAverage(model, ema_decay) if ema_decay is not None else None
        self.step = make_step(
            model,
            self.optimizer,
            device=device,
            precision=precision,
            label_smoothing=label_smoothing,
            attack=attack,
            eps=eps,
            timer=timer,
            train_mode=train_mode,
            seed=seed,
            average=self.average,
            num_parts=num_parts,
            group=group,
        )
        self.batch_size = 0  # of the batches to compile for: of a shared one, this process's part
        self.compiled = "eager"  # or another name of harness.train.compilation.MODES
        self._attack = self.step.attack

    def compile(self, name: str) -> None:
        """Compute in that way of harness.train.compilation.MODES from the next step on."""
        self.compiled = name
        mode, captured = MODES[name]
        parts = self.step.num_parts
        sizes = frozenset((self.batch_size // parts, -(-self.batch_size // parts)))
        self.step.logits_of = CompiledModel(self.model, mode, sizes) if mode else self.model
        self.step.attack = self._attack
        if captured and self._attack is not None:
            self.step.attack = CapturedAttack(
                self._attack, self.step.generator, self.step.zero_gradients, sizes
            )

    def set_rate(self, fraction: float) -> None:
        set_lr(self.optimizer, fraction * self.peak_lr)

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        self.step(images, labels)

    def first_bad_step(self) -> int | None:
        found = self._group.all_gather(self.step.watch.first_bad(weights(self.model)))
        return min((step for step in found if step is not None), default=None)

    def totals(self) -> dict[str, float]:
        return self.step.totals()

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "compiled": self.compiled,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step.load_state_dict(state["step"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.compiled != state["compiled"]:  # a resumed run computes as it did
            self.compile(state["compiled"])

    def final_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that it is to be judged by: the averaged ones where there is an average."""
        return self.average.in_place() if self.average is not None else nullcontext()


def replay_rate(
    trainee: Trainee,
    images: Tensor,
    labels: Tensor,
    train_s: float,
    group: ProcessGroup = SINGLE_PROCESS,
) -> float:
    """Images per second of training on one batch over and over: what the run could do if data cost nothing.

    group: of a shared batch each process replays its part, and the images of all count. The trainee's weights are spoilt:
    call it last.
    """
    wait = torch.cuda.synchronize if images.is_cuda else nullcontext
    batch = (
        images.clone(),
        labels.clone(),
    )  # before the first step is timed: caches, and the GPU's choice of kernels
    trainee.train_batch(*batch)
    wait()
    budget_s = min(REPLAY_S, REPLAY_SHARE * train_s)
    started, num_steps = time.perf_counter(), 0
    while group.broadcast(num_steps < MIN_REPLAY_STEPS or time.perf_counter() - started < budget_s):
        for again in repeat(batch, MIN_REPLAY_STEPS):
            trainee.train_batch(*again)
        wait()
        num_steps += MIN_REPLAY_STEPS
    return num_steps * sum(group.all_gather(len(images))) / (time.perf_counter() - started)
