"""Batches that do not fit in memory: micro-batches, messages with a size that fits, retries."""

import copy

import pytest
import torch
from torch import Tensor

from harness.runner.context import OutOfMemoryError, StageContext
from harness.stages.pretrain import run as pretrain
from harness.stages.transfer import run as transfer
from harness.train import micro_batching
from harness.train.step import TrainStep
from harness.transfer.methods._shared_backbone import SharedBackbone
from tests.helpers.tiny_stages import (
    TRANSFER,
    as_result,
    context_of,
    pretrain_context,
    without_times,
    write_colors,
)
from tests.train.test_autotune import assert_same, batch, make_learner
from writers.errors import UserError


def limit_memory(
    monkeypatch,
    most_images: int,
    error: type[RuntimeError] = torch.OutOfMemoryError,
    *,
    after: int = 0,
) -> None:
    """Let forward passes of more than `most_images` images run out of memory.

    The first `after` forward passes succeed with any number.
    """
    seen: list[int] = []
    original = TrainStep._forward

    def forward(self: TrainStep, images: Tensor, labels: Tensor, **how: bool) -> Tensor:
        seen.append(len(images))
        if len(images) > most_images and len(seen) > after:
            raise error(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."
            )
        return original(self, images, labels, **how)

    monkeypatch.setattr(TrainStep, "_forward", forward)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "data").mkdir()
    return write_colors(tmp_path / "data", splits={"train": 12, "val": 2, "test": 2})


@pytest.fixture
def transfer_context(tmp_path, source):
    """Function that makes the context of a transfer stage with batches of 20 images."""
    trained = as_result(
        "pretrain", pretrain.run(pretrain_context(tmp_path, source, settings={"epochs": 1})).metrics
    )

    def make(method: str, name: str = "transfer", **settings: object) -> StageContext:
        settings = {**TRANSFER, "batch_size": 20, "epochs": 1, **settings}
        config = {"method": method, "seed": 0, "metric": "top1", "settings": settings}
        return context_of(tmp_path, name, config, {"model": trained, "data": source})

    return make


@pytest.mark.parametrize(("most_images", "parts"), [(16, 1), (15, 2), (7, 4), (2, 8)])
def test_auto_takes_the_fewest_micro_batches_that_fit(tmp_path, monkeypatch, most_images, parts):
    learner = make_learner()
    limit_memory(monkeypatch, most_images)
    before = copy.deepcopy(learner.state_dict())
    assert (
        micro_batching.choose_micro_batches(learner, "auto", batch(), tmp_path)
        == parts
        == learner.num_micro_batches
    )
    before["num_micro_batches"] = parts
    assert_same(learner.state_dict(), before)
    learner.train_batch(*batch())


def test_the_advised_batch_size_is_that_of_all_processes(tmp_path, monkeypatch):
    limit_memory(monkeypatch, 9)
    message = str(
        micro_batching.out_of_memory(make_learner(), batch(), tmp_path, 1, num_processes=4)
    )
    assert "the 16 images of a batch on one process at 24 pixels; 8 fit" in message
    assert "batch_size: 32 " in message


def test_the_error_names_the_smallest_number_of_images_that_was_tried(tmp_path, monkeypatch):
    """Halving 12 images does not lead to 2, which would have fit."""
    limit_memory(monkeypatch, 2)
    with pytest.raises(UserError, match="memory for 3 images at 24 pixels"):
        micro_batching.choose_micro_batches(make_learner(), "auto", batch(12), tmp_path)
    for setting, parts in ((1, 1), ("auto", 4)):
        learner = make_learner(num_micro_batches=parts)
        error = micro_batching.out_of_memory(learner, batch(12), tmp_path, setting)
        assert type(error) is UserError and "memory for 3 images" in str(error)


def test_memory_for_less_than_two_images_is_an_error(tmp_path, monkeypatch):
    limit_memory(monkeypatch, 1)
    with pytest.raises(UserError, match="memory for 2 images at 24 pixels"):
        micro_batching.choose_micro_batches(make_learner(), "auto", batch(), tmp_path)
    assert "memory for 2 images" in str(
        micro_batching.out_of_memory(make_learner(), batch(), tmp_path, 1)
    )
    assert (
        type(
            micro_batching.out_of_memory(
                make_learner(num_micro_batches=8), batch(), tmp_path, "auto"
            )
        )
        is UserError
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_stage_that_runs_out_of_memory_names_the_batch_that_fits(
    tmp_path, source, monkeypatch, error
):
    limit_memory(monkeypatch, 9, error)
    pattern = r"batches of 32 images at 24 pixels; 8 fit(.|\n)*batch_size: 8 .*accumulate: auto"
    with pytest.raises(UserError, match=pattern) as error:
        pretrain.run(pretrain_context(tmp_path, source, settings={"batch_size": 32, "epochs": 1}))
    assert not isinstance(error.value, OutOfMemoryError)  # a retry would fail again
    metrics = pretrain.run(
        pretrain_context(
            tmp_path, source, "auto", settings={"batch_size": 32, "epochs": 1, "accumulate": "auto"}
        )
    ).metrics
    assert metrics["num_parts"] == 4 and metrics["num_steps"] == 2
    expected = pretrain.run(
        pretrain_context(
            tmp_path, source, "expected", settings={"batch_size": 32, "epochs": 1, "accumulate": 4}
        )
    ).metrics
    assert expected == metrics


def test_a_batch_that_stops_fitting_is_retried_in_twice_as_many_micro_batches(
    tmp_path, source, monkeypatch
):
    settings = {"batch_size": 16, "epochs": 2}
    expected = pretrain.run(
        pretrain_context(tmp_path, source, "expected", settings={**settings, "accumulate": 4})
    )
    with monkeypatch.context() as patched:
        limit_memory(patched, 9, after=3)  # one trial forward pass, then training steps
        with pytest.raises(
            OutOfMemoryError,
            match=r"no longer enough memory for 16 images(.|\n)*into 2 micro-batches",
        ):
            pretrain.run(
                pretrain_context(
                    tmp_path, source, "auto", settings={**settings, "accumulate": "auto"}
                )
            )
    limit_memory(monkeypatch, 4, after=4)  # 8 images fit in the trial, but not later
    with pytest.raises(OutOfMemoryError, match=r"for 8 images(.|\n)*into 4 micro-batches"):
        pretrain.run(
            pretrain_context(tmp_path, source, "auto", settings={**settings, "accumulate": "auto"})
        )
    outcome = pretrain.run(
        pretrain_context(tmp_path, source, "auto", settings={**settings, "accumulate": "auto"})
    )
    assert without_times(outcome) == without_times(expected) and outcome.metrics["num_parts"] == 4


def test_a_network_transfer_accumulates_if_its_recipe_sets_it(transfer_context, monkeypatch):
    expected = transfer.run(transfer_context("full", "expected", accumulate=4))
    limit_memory(monkeypatch, 9)
    with pytest.raises(
        UserError, match=r"batches of 20 images at 24 pixels; 5 fit(.|\n)*accumulate: auto"
    ):
        transfer.run(transfer_context("full"))
    outcome = transfer.run(transfer_context("full", "auto", accumulate="auto"))
    assert outcome.metrics == expected.metrics and outcome.metrics["num_parts"] == 4


def test_a_transfer_is_retried_if_other_processes_use_the_memory(transfer_context, monkeypatch):
    context = transfer_context("full")
    limit_memory(monkeypatch, 9)
    monkeypatch.setattr(micro_batching, "_bytes_of_others", lambda device: 3e9)
    with pytest.raises(OutOfMemoryError, match=r"5 fit. Other processes use 3.0 GB"):
        transfer.run(context)


def test_accumulation_is_not_advised_for_heads_on_a_frozen_network(transfer_context, monkeypatch):
    context = transfer_context("fixed")
    original = SharedBackbone.train_batch

    def train_batch(self: SharedBackbone, images: Tensor, labels: Tensor) -> None:
        if len(images) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        original(self, images, labels)

    monkeypatch.setattr(SharedBackbone, "train_batch", train_batch)
    with pytest.raises(UserError, match=r"batches of 20 images at 24 pixels; 5 fit") as error:
        transfer.run(context)
    assert "accumulate" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", '{"at_least": "many"}', '{"at_least": 0}'])
def test_a_damaged_parts_file_is_ignored(tmp_path, content):
    (tmp_path / micro_batching.FILE_NAME).write_text(content)
    assert micro_batching.choose_micro_batches(make_learner(), "auto", batch(), tmp_path) == 1


def test_other_errors_are_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    source = write_colors(tmp_path / "data", splits={"train": 2, "val": 2})

    def broken(*_: object, **__: object) -> Tensor:
        raise RuntimeError("something else")

    monkeypatch.setattr(TrainStep, "_forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        pretrain.run(pretrain_context(tmp_path, source))


def test_accumulated_training_is_repeatable(tmp_path):
    (tmp_path / "data").mkdir()
    source = write_colors(tmp_path / "data", splits={"train": 8, "val": 2})
    outcomes = [
        pretrain.run(
            pretrain_context(tmp_path, source, str(index), eps=0.3, settings={"accumulate": 3})
        )
        for index in range(2)
    ]
    assert without_times(outcomes[0]) == without_times(outcomes[1])
    assert outcomes[0].metrics["num_parts"] == 3
