"""Trial steps restore all state; the compile mode is chosen by measurement."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.config.attack import AttackSettings
from harness.config.train import ScheduleSettings
from harness.modeling import classifier
from harness.profiling.timer import Timer
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from harness.train import autotune, compilation, mode_trials
from harness.train.compilation import compiled_for
from harness.train.optimizer import make_sgd
from harness.train.step import StepConfig, TrainStep, make_step
from writers.errors import UserError

K, SIDE = 3, 24


STARTING_AT_RANDOM, FREE = (
    AttackSettings(random_start="ball"),
    AttackSettings(method="free", replays=2),
)


def make_learner(
    eps: float = 0.3,
    attack: AttackSettings = STARTING_AT_RANDOM,
    group: ProcessGroup = SINGLE_PROCESS,
    **more,
) -> TrainStep:
    torch.manual_seed(0)
    model = classifier.build("resnet10", K, channels=(16, 16, 16, 16))
    config = StepConfig(0.1, attack=attack, eps=eps, ema_decay=0.9, **more)
    optimizer = make_sgd(model, ScheduleSettings(), 0.1)
    return make_step(model.train(), optimizer, config, Timer("cpu"), group=group)


def batch(size: int = 16) -> tuple[Tensor, Tensor]:
    return autotune.noise_batch(size, SIDE, K, "cpu")


def assert_same(state: dict, expected: dict) -> None:
    for name in ("compile_mode", "batch_size"):
        assert state.pop(name) == expected.pop(name)
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


def test_noise_batch_has_the_layout_of_a_loaders_batch():
    images, labels = batch(5)
    assert images.dtype == torch.uint8
    assert images.shape == (5, 3, SIDE, SIDE)
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("attack", [STARTING_AT_RANDOM, FREE])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_restore_after_restores_learner_and_random_state(steps_before, attack):
    learner = make_learner(attack=attack)
    for _ in range(steps_before):
        learner.train_batch(*batch())
    before, numbers = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    with autotune.restore_after(learner, "cpu"):
        learner.train_batch(*batch())
        torch.rand(3)
    assert_same(learner.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.parametrize("attack", [STARTING_AT_RANDOM, FREE])
def test_a_trial_step_that_fails_leaves_no_gradients(attack, monkeypatch):
    """The next step would add its gradients to them."""
    learner, twin = make_learner(attack=attack), make_learner(attack=attack)

    def fail() -> None:
        raise RuntimeError("CUDA error: out of memory")

    with (
        autotune.restore_after(learner, "cpu"),
        monkeypatch.context() as patch,
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        patch.setattr(learner, "_update", fail)
        learner.train_batch(*batch())
    for each in (learner, twin):
        each.train_batch(*batch())
    assert_same(learner.state_dict(), twin.state_dict())


def test_trials_do_not_communicate_with_other_ranks():
    """The step of another rank may have failed, so a collective might never end."""

    class Unreachable(ProcessGroup):
        def all_reduce_(self, *tensors: Tensor) -> None:
            raise AssertionError("the other ranks were called")

    group = Unreachable()
    learner = make_learner(group=group)
    measured = autotune.choose_compile_mode(learner, batch(), "auto", "cpu", excluded=["compiled"])
    assert measured["chosen"] == "eager"
    with pytest.raises(AssertionError, match="other ranks"):
        learner.totals()


def test_an_error_of_the_eager_mode_is_not_blamed_on_the_compiler():
    def fail() -> mode_trials.FirstRun:
        raise ValueError("a label is out of range")

    with pytest.raises(ValueError, match="a label is out of range"):
        mode_trials.try_modes(
            ["eager"], "auto", "cpu", use=lambda mode: None, first=fail, again=lambda: 1.0
        )


class FakeCompiled:
    """Replace the result of torch.compile, which takes a minute.

    Computes the same as the original. A step takes `seconds` on the fake clock. If `seconds` is
    negative, the compiler fails.
    """

    def __init__(self, function, sizes: frozenset[int], mode: str = "", *, seconds, clock) -> None:
        self.function, self.sizes, self.seconds, self.clock = function, sizes, seconds, clock

    def __call__(self, *arguments: Any) -> Tensor:
        if self.seconds < 0:
            raise RuntimeError("no C++ compiler\nlong story")
        if isinstance(self.function, nn.Module):
            self.clock.now += self.seconds - 1
        return self.function(*arguments)


class FakeClock:
    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1  # one second between two reads, as for an eager step
        return self.now


@pytest.fixture
def compiles(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(mode_trials, "time", clock)

    def at_speed(seconds: float) -> None:
        monkeypatch.setattr(
            "harness.train.step.compiled_for",
            partial(FakeCompiled, seconds=seconds, clock=clock),
        )

    return at_speed


@pytest.mark.parametrize(("seconds", "chosen"), [(0.9, "compiled"), (1.0, "eager"), (1.1, "eager")])
def test_auto_compiles_if_that_is_faster(compiles, seconds, chosen):
    compiles(seconds)
    learner = make_learner()
    before = copy.deepcopy(learner.state_dict())
    measured = autotune.choose_compile_mode(learner, batch(), "auto", "cpu")
    assert measured["chosen"] == chosen == learner.compile_mode
    assert set(measured) == {"chosen", "eager", "compiled"} and measured["eager"]["step_s"] == 1.0
    assert_same(learner.state_dict(), {**before, "compile_mode": chosen, "batch_size": 16})


def test_a_failing_compiler_is_skipped_by_auto_and_reported_by_on(compiles):
    compiles(-1)
    learner = make_learner()
    measured = autotune.choose_compile_mode(learner, batch(), "auto", "cpu")
    assert measured["chosen"] == "eager" and measured["compiled"] == {"failed": "no C++ compiler"}
    with pytest.raises(UserError, match=r"torch.compile failed: no C\+\+ compiler\n.*compile: off"):
        autotune.choose_compile_mode(learner, batch(), "on", "cpu")
    assert autotune.choose_compile_mode(learner, batch(), "off", "cpu") == {"chosen": "eager"}


def test_a_resumed_run_keeps_its_compile_mode(compiles):
    compiles(0.5)
    first, second = make_learner(), make_learner()
    autotune.choose_compile_mode(first, batch(), "on", "cpu")
    second.load_state_dict(first.state_dict())
    assert second.compile_mode == "compiled" and isinstance(second.logits_of, FakeCompiled)
    assert second.logits_of.sizes == {16}


def test_each_run_in_a_process_compiles_again(graphs, monkeypatch):
    monkeypatch.setattr(compilation, "RECOMPILE_LIMIT", 1)
    for num_runs in (1, 2):
        assert (
            autotune.choose_compile_mode(make_learner(eps=0.0), batch(), "on", "cpu")["chosen"]
            == "compiled"
        )
        assert len(graphs) == num_runs


def test_a_run_compiles_for_all_its_resolutions(graphs):
    model = compiled_for(
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        frozenset([2]),
    )
    for number in range(12):
        model(torch.rand(2, 3, 8 + number, 8 + number))
    assert len(graphs) == 12
