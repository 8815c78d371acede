"""All uses of internals of the code under test, in one module."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from harness.config import grid
from harness.config.attack import AttackSettings
from harness.config.methods import settings_model
from harness.config.train import ScheduleSettings
from harness.modeling.classifier import Classifier, build
from harness.modeling.precision import Precision
from harness.profiling.timer import Timer
from harness.train import autotune, compile_choice, mode_trials
from harness.train.attack import PgdAttack
from harness.train.compilation import MODES
from harness.train.cuda_graph_attack import CudaGraphAttack
from harness.train.optimizer import make_sgd
from harness.train.step import StepConfig, TrainStep, make_step
from harness.transfer.method import TransferSetup
from harness.transfer.methods._shared_backbone import SharedBackbone

NUM_CLASSES = 5
BATCH_SIZE = 8
COMPILE_MODES = tuple(MODES)  # eager, compiled, ...; see harness bench train


def make_model() -> Classifier:
    torch.manual_seed(0)
    return build("resnet10", NUM_CLASSES, channels=(16, 16, 16, 16))


def make_learner(
    device: str,
    mode: str = "eager",
    *,
    precision: Precision = "float32",
    attack: AttackSettings | None = None,
    model: Classifier | None = None,
    num_micro_batches: int = 1,
    ema_decay: float | None = None,
) -> TrainStep:
    """Return the training step of a small network, or of `model`, which must be on the device.

    Without an attack (None) the step is clean; if `ema_decay` is None, it keeps no mean of weights.
    """
    model = make_model().to(device) if model is None else model
    model.train()
    config = StepConfig(
        peak_lr=0.1,
        device=device,
        precision=precision,
        attack=attack,
        eps=0.5 if attack else 0.0,
        ema_decay=ema_decay,
        num_micro_batches=num_micro_batches,
    )
    optimizer = make_sgd(model, ScheduleSettings(), 0.1)
    learner = make_step(model, optimizer, config, Timer(device))
    learner.compile(mode, BATCH_SIZE)
    learner.set_rate(1.0)
    return learner


def make_heads(device: str, lrs: tuple[float, ...]) -> SharedBackbone:
    """Return heads of several learning rates on a small frozen network."""
    settings = settings_model("fixed").model_validate({"lrs": lrs})

    def load() -> Classifier:
        return make_model().to(device)

    setup = TransferSetup(load, load, settings, "frozen", 4, device, "float32", Timer(device))
    return SharedBackbone(setup, grid.trials(settings))


def make_batch(device: str, size: int = BATCH_SIZE, side: int = 24) -> tuple[Tensor, Tensor]:
    """Return uint8 images [B, 3, R, R] and labels [B], as a loader yields them."""
    return autotune.noise_batch(size, side, NUM_CLASSES, device)


def weights_of(learner: TrainStep) -> list[Tensor]:
    return [value.detach().clone() for value in learner.model.state_dict().values()]


def choose(learner: TrainStep) -> dict[str, Any]:
    """Do what `compile: auto` does before training; returns the measurements by mode."""
    return autotune.choose_compile_mode(learner, make_batch("cuda:0"), "auto", "cuda:0")


def choose_for(learner: TrainStep, folder: Path) -> dict[str, Any]:
    """Do what a stage with `compile: auto` does at its start, and record it in its folder."""
    measured = compile_choice.choose(learner, make_batch("cuda:0"), "auto", "cuda:0", folder)
    compile_choice.record(folder, measured)
    return measured


def wait_for(device: str) -> None:
    mode_trials.synchronize(device)


def checkpoint_of(learner: TrainStep) -> dict[str, Any]:
    """Return a state that shares no memory with the learner, as if it were read from a file."""
    state: dict[str, Any] = autotune._copy_to_cpu(learner.state_dict())
    return state


class BoundAttack:
    """A function that replaces PGD, with the state that a capture restores."""

    def __init__(
        self, attack: Callable[[Tensor, Tensor], Tensor], generator: torch.Generator
    ) -> None:
        self.generator, self._attack = generator, attack
        self.zero_gradients = torch.zeros((), dtype=torch.int64, device="cuda")

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        return self._attack(images, labels)


def captured(attack: Callable[[Tensor, Tensor], Tensor], generator: torch.Generator) -> Any:
    """Return the attack, captured in a CUDA graph for batches of BATCH_SIZE images.

    `generator` draws its random starts.
    """
    bound = cast(PgdAttack, BoundAttack(attack, generator))
    return CudaGraphAttack(bound, frozenset([BATCH_SIZE]))


def replace_attack(learner: TrainStep, attack: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Make all compile modes of the learner use this attack."""

    def make_attack(graph_sizes: frozenset[int] | None) -> Any:
        return captured(attack, torch.Generator("cuda")) if graph_sizes else attack

    learner._make_attack = make_attack  # type: ignore[method-assign]
    learner.compile("eager", BATCH_SIZE)


def read_timer(learner: TrainStep) -> dict[str, Any]:
    return learner._timer.end_epoch()


@contextmanager
def step_that(learner: TrainStep, also: Callable[[Tensor], object]) -> Iterator[None]:
    """Let each step in the block call `also` with its loss. Tests use it to cause a fault."""
    add_step = learner._totals.add_step

    def add_and_call(losses: Sequence[Tensor], num_images: int) -> None:
        for loss in losses:
            also(loss)
        add_step(losses, num_images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner._totals, "add_step", add_and_call)
        yield
