"""Trials on noise leave no mark; a batch that does not fit is cut or told; compiling is chosen by measurement."""

import copy
from functools import partial

import pytest
import torch
from tiny_stages import TRANSFER, as_result, context_of, pretrain_context, without_times, write_colours
from torch import Tensor

from harness import model as models
from harness.attack_settings import AttackSettings
from harness.stages import pretrain, transfer
from harness.timer import Timer
from harness.train import trial
from harness.train.step import Step
from harness.train.trainee import ModelTrainee
from harness.train_settings import ScheduleSettings
from writers.errors import UserError

K, SIDE = 3, 24


def make_trainee(**more) -> ModelTrainee:
    torch.manual_seed(0)
    model = models.build("resnet10", K, channels=(8, 8, 8, 8))
    trainee = ModelTrainee(model, ScheduleSettings(), 0.1, device="cpu", precision="float32", label_smoothing=0.0,
                           timer=Timer("cpu"), train_mode=model.train, attack=AttackSettings(random_start="ball"), eps=0.3,
                           ema_decay=0.9, **more)
    trainee.batch_size = 16
    return trainee


def batch(size: int = 16) -> tuple[Tensor, Tensor]:
    return trial.noise_batch(size, SIDE, K, "cpu")


def assert_same(state: dict, expected: dict) -> None:
    assert state.pop("compiled") == expected.pop("compiled")
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


def limit_memory(monkeypatch, most_images: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> list[int]:
    """A forward pass of more images fails, as a GPU's allocator makes it; returns what was tried."""
    tried: list[int] = []
    original = Step._forward

    def forward(self: Step, images: Tensor, labels: Tensor, **how: bool) -> Tensor:
        tried.append(len(images))
        if len(images) > most_images:
            raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return original(self, images, labels, **how)

    monkeypatch.setattr(Step, "_forward", forward)
    return tried


def test_noise_looks_like_a_loaders_batch():
    images, labels = batch(5)
    assert images.dtype == torch.uint8 and images.shape == (5, 3, SIDE, SIDE) and labels.tolist() == [0, 1, 2, 0, 1]
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_trial_leaves_no_mark(steps_before):
    trainee = make_trainee()
    for _ in range(steps_before):
        trainee.train_batch(*batch())
    before, numbers = copy.deepcopy(trainee.state_dict()), torch.get_rng_state()
    with trial.unchanged(trainee, "cpu"):
        trainee.train_batch(*batch())
        torch.rand(3)
    assert_same(trainee.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.parametrize(("most_images", "parts"), [(16, 1), (15, 2), (7, 4), (2, 8)])
def test_auto_cuts_a_batch_into_the_fewest_parts_that_fit(monkeypatch, most_images, parts):
    trainee = make_trainee()
    limit_memory(monkeypatch, most_images)
    before = copy.deepcopy(trainee.state_dict())
    assert trial.parts_that_fit(trainee, batch(), "cpu") == parts == trainee.step.num_parts
    before["step"]["num_parts"] = parts
    assert_same(trainee.state_dict(), before)
    trainee.train_batch(*batch())


def test_where_no_pair_fits_no_part_does(monkeypatch):
    limit_memory(monkeypatch, 1)
    with pytest.raises(UserError, match="two images at 24 pixels"):
        trial.parts_that_fit(make_trainee(), batch(), "cpu")
    assert "two images" in str(trial.out_of_memory(make_trainee(), batch()))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_stage_that_runs_out_of_memory_names_the_batch_that_fits(tmp_path, monkeypatch, error):
    (tmp_path / "data").mkdir()
    source = write_colours(tmp_path / "data", splits={"train": 12, "val": 2})
    limit_memory(monkeypatch, 9, error)
    with pytest.raises(UserError, match=r"batches of 32 images at 24 pixels; 8 fit(.|\n)*batch_size: 8 .*accumulate: auto"):
        pretrain.run(pretrain_context(tmp_path, source, settings={"batch_size": 32, "epochs": 1}))
    metrics = pretrain.run(pretrain_context(tmp_path, source, "auto", settings={
        "batch_size": 32, "epochs": 1, "accumulate": "auto"})).metrics
    assert metrics["num_parts"] == 4 and metrics["num_steps"] == 2
    said = pretrain.run(pretrain_context(tmp_path, source, "said", settings={
        "batch_size": 32, "epochs": 1, "accumulate": 4})).metrics
    assert said == metrics


def test_a_transfer_that_runs_out_of_memory_says_so_without_offering_parts(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    source = write_colours(tmp_path / "data", splits={"train": 12, "val": 2, "test": 2})
    trained = as_result("pretrain", pretrain.run(pretrain_context(tmp_path, source, settings={"epochs": 1})).metrics)
    limit_memory(monkeypatch, 9)
    config = {"method": "full", "seed": 0, "metric": "top1", "settings": {**TRANSFER, "batch_size": 20, "epochs": 1}}
    with pytest.raises(UserError, match=r"batches of 20 images at 24 pixels; 5 fit") as told:
        transfer.run(context_of(tmp_path, "transfer", config, {"model": trained, "data": source}))
    assert "accumulate" not in str(told.value)


def test_another_error_stays_what_it_is(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    source = write_colours(tmp_path / "data", splits={"train": 2, "val": 2})

    def broken(*_: object, **__: object) -> Tensor:
        raise RuntimeError("something else")

    monkeypatch.setattr(Step, "_forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        pretrain.run(pretrain_context(tmp_path, source))


class FakeCompiled:
    """Stands in for torch.compile, which takes a minute here: as fast as it is told, the same numbers."""

    def __init__(self, model, name: str, sizes: frozenset[int], *, seconds: float, clock) -> None:
        self.model, self.sizes, self.seconds, self.clock = model, sizes, seconds, clock

    def __call__(self, images: Tensor) -> Tensor:
        if self.seconds < 0:
            raise RuntimeError("no C++ compiler\nlong story")
        self.clock.now += self.seconds - 1
        return self.model(images)


class FakeClock:
    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1       # an eager step of one second
        return self.now


@pytest.fixture
def compiles(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(trial, "time", clock)

    def at_speed(seconds: float) -> None:
        monkeypatch.setattr("harness.train.trainee.CompiledModel", partial(FakeCompiled, seconds=seconds, clock=clock))

    return at_speed


@pytest.mark.parametrize(("seconds", "chosen"), [(0.9, "compiled"), (1.0, "eager"), (1.1, "eager")])
def test_auto_compiles_where_it_pays(compiles, seconds, chosen):
    compiles(seconds)
    trainee = make_trainee()
    before = copy.deepcopy(trainee.state_dict())
    measured = trial.choose_compiled(trainee, batch(), "auto", "cpu")
    assert measured["chosen"] == chosen == trainee.compiled
    assert set(measured) == {"chosen", "eager", "compiled"} and measured["eager"]["step_s"] == 1.0
    assert_same(trainee.state_dict(), {**before, "compiled": chosen})


def test_a_compiler_that_fails_is_left_out_or_told(compiles):
    compiles(-1)
    trainee = make_trainee()
    measured = trial.choose_compiled(trainee, batch(), "auto", "cpu")
    assert measured["chosen"] == "eager" and measured["compiled"] == {"failed": "no C++ compiler"}
    with pytest.raises(UserError, match=r"torch.compile failed: no C\+\+ compiler\n.*compile: off"):
        trial.choose_compiled(trainee, batch(), "on", "cpu")
    assert trial.choose_compiled(trainee, batch(), "off", "cpu") == {"chosen": "eager"}


def test_a_resumed_run_computes_as_it_did(compiles):
    compiles(0.5)
    first, second = make_trainee(), make_trainee()
    trial.choose_compiled(first, batch(), "on", "cpu")
    second.load_state_dict(first.state_dict())
    assert second.compiled == "compiled" and isinstance(second.step.logits_of, FakeCompiled)
    assert second.step.logits_of.sizes == {16}


def test_accumulating_gives_the_numbers_of_its_parts_twice(tmp_path):
    (tmp_path / "data").mkdir()
    source = write_colours(tmp_path / "data", splits={"train": 8, "val": 2})
    outcomes = [pretrain.run(pretrain_context(tmp_path, source, str(index), eps=0.3, settings={"accumulate": 3}))
                for index in range(2)]
    assert without_times(outcomes[0]) == without_times(outcomes[1]) and outcomes[0].metrics["num_parts"] == 3
