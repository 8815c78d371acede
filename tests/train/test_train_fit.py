"""The loop on a trainee that remembers what it was given: steps, rates, stops, resumption, divergence."""

from pathlib import Path

import pytest
import torch

from harness.settings import ScheduleSettings
from harness.stage import Stopped
from harness.timer import Timer
from harness.train import fit as fitting
from harness.train.fit import Clock, Diverged, fit
from harness.train.schedule import learning_rate
from loaders.backend import Loader, PlainEpoch
from loaders.plan import LoaderPlan

CONSTANT = ScheduleSettings(schedule="constant")


class FakeLoader(Loader):
    """Batches of the epoch's number; says which epochs were opened, and whether they were closed."""

    def __init__(self, num_samples: int, batch_size: int = 4, drop_last: bool = False) -> None:
        super().__init__(LoaderPlan(Path("none.beton"), batch_size, 2, drop_last=drop_last), samples=None)
        self._num_samples = num_samples
        self.opened: list[PlainEpoch] = []

    @property
    def num_samples(self) -> int:
        return self._num_samples

    def epoch(self, epoch: int, resolution: int | None = None) -> PlainEpoch:
        sizes = [min(self.plan.batch_size, self.num_samples - first)
                 for first in range(0, self.num_samples, self.plan.batch_size)]
        if self.plan.drop_last and sizes[-1] < self.plan.batch_size:
            sizes.pop()
        self.opened.append(PlainEpoch((torch.zeros(size, 3, 2, 2, dtype=torch.uint8), torch.full((size,), epoch))
                                      for size in sizes))
        return self.opened[-1]

    def close(self) -> None:
        pass


class Recorder:
    """Remembers (epoch, batch size, rate) of each step; `total` stands for weights that a checkpoint must bring back."""

    peak_lr = 0.5

    def __init__(self, bad_epoch: int | None = None) -> None:
        self.steps: list[tuple[int, int, float]] = []
        self.total, self.bad_epoch, self._images, self._rate = 0.0, bad_epoch, 0, 0.0

    def set_rate(self, fraction: float) -> None:
        self._rate = fraction

    def train_batch(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.steps.append((int(labels[0]), len(labels), self._rate))
        self.total = 0.9 * self.total + self._rate * int(labels[0])
        self._images += len(labels)

    def totals(self) -> dict[str, float]:
        loss = float("nan") if self.steps[-1][0] == self.bad_epoch else self.total
        images, self._images = self._images, 0
        return {"loss": loss, "top1": 0.25, "num_images": images, "zero_gradients": 2}

    def state_dict(self) -> dict[str, float]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.total = state["total"]


def train(trainee: Recorder, loader: Loader, schedule: ScheduleSettings = CONSTANT, *, epochs: int = 3, **more):
    clock = more.pop("clock", None) or Clock()
    return list(fit(trainee, loader, schedule, num_epochs=epochs, timer=Timer("cpu"), clock=clock, **more))


def without_seconds(records):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.mark.parametrize(("num_samples", "drop_last", "sizes"), [
    (8, False, [4, 4]), (10, False, [4, 4, 2]), (9, False, [4, 4]), (9, True, [4, 4]), (11, True, [4, 4]), (1, False, [1])])
def test_every_epoch_has_its_batches_but_no_last_one_of_a_single_image(num_samples, drop_last, sizes):
    trainee = Recorder()
    records = train(trainee, FakeLoader(num_samples, drop_last=drop_last), epochs=2)
    assert [step[:2] for step in trainee.steps] == [(epoch, size) for epoch in range(2) for size in sizes]
    assert [record["num_images"] for record in records] == [sum(sizes)] * 2


def test_batches_of_one_image_are_used_where_that_is_the_batch_size():
    trainee = Recorder()
    train(trainee, FakeLoader(3, batch_size=1), epochs=1)
    assert [size for _, size, _ in trainee.steps] == [1, 1, 1]


def test_the_rate_follows_the_schedule_step_by_step_and_records_say_it():
    schedule = ScheduleSettings(schedule="cosine", warmup_epochs=1)
    trainee = Recorder()
    records = train(trainee, FakeLoader(12), schedule)
    expected = [learning_rate(schedule, 1.0, step, 9, 3) for step in range(9)]
    assert [rate for _, _, rate in trainee.steps] == expected
    assert [record["lr"] for record in records] == pytest.approx([0.5 * expected[step] for step in (0, 3, 6)])
    assert [record["epoch"] for record in records] == [1, 2, 3]


@pytest.mark.parametrize("schedule", [
    ScheduleSettings(schedule="step", step_epochs=2), ScheduleSettings(schedule="cosine", warmup_epochs=1)])
def test_fewer_data_for_equal_steps_see_the_rates_of_all_data(schedule):
    whole, few = Recorder(), Recorder()
    train(whole, FakeLoader(20), schedule, epochs=4)                                    # 4 epochs of 5 steps
    records = train(few, FakeLoader(12), schedule, epochs=4, steps_per_epoch=5)         # 6 passes of 3 steps, and 2 more
    assert [rate for _, _, rate in few.steps] == [rate for _, _, rate in whole.steps]
    assert [record["num_steps"] for record in records] == [3] * 6 + [2]


@pytest.mark.parametrize("steps_before", range(9))
def test_stopping_anywhere_and_resuming_is_as_if_nothing_had_been(tmp_path, steps_before):
    """Also at an epoch's last step: that epoch is then saved, not trained again."""
    schedule = ScheduleSettings(schedule="cosine")
    whole, whole_clock = Recorder(), Clock()
    expected = train(whole, FakeLoader(12), schedule, clock=whole_clock)

    first, loader = Recorder(), FakeLoader(12)
    with pytest.raises(Stopped):
        train(first, loader, schedule, checkpoints=tmp_path, stop_requested=lambda: len(first.steps) >= steps_before)
    assert len(first.steps) == steps_before
    with pytest.raises(RuntimeError, match="closed"):
        next(loader.opened[-1])
    saved = steps_before // 3 if steps_before % 3 == 0 else 0      # nothing is due before 30 s but at the stop itself
    second, clock = Recorder(), Clock()
    records = train(second, FakeLoader(12), schedule, checkpoints=tmp_path, clock=clock)
    assert [epoch for epoch, _, _ in second.steps] == [epoch for epoch in range(saved, 3) for _ in range(3)]
    assert second.total == whole.total
    assert without_seconds(records) == without_seconds(expected)
    assert (clock.num_steps, clock.num_images, clock.zero_gradients) == (9, 36, 6)
    assert (whole_clock.num_steps, whole_clock.num_images, whole_clock.zero_gradients) == (9, 36, 6)


def test_stopping_behind_the_last_step_saves_all_of_the_training(tmp_path):
    first = Recorder()
    with pytest.raises(Stopped):
        train(first, FakeLoader(12), checkpoints=tmp_path, stop_requested=lambda: len(first.steps) >= 9)
    second = Recorder()
    assert len(train(second, FakeLoader(12), checkpoints=tmp_path)) == 3
    assert second.steps == [] and second.total == first.total


def test_checkpoints_are_at_least_their_interval_apart(tmp_path, monkeypatch):
    train(Recorder(), FakeLoader(12), checkpoints=tmp_path / "seldom")
    assert not list(tmp_path.rglob("*.pt"))
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY_S", 0.0)
    train(Recorder(), FakeLoader(12), checkpoints=tmp_path / "often")
    assert [path.name for path in sorted(tmp_path.rglob("*.pt"))] == ["000002.pt", "000003.pt"]


def test_a_loss_that_is_no_number_names_epoch_and_rate_and_leaves_no_checkpoint_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY_S", 0.0)
    with pytest.raises(Diverged, match=r"nan after epoch 2 of 3, with a peak learning rate of 0\.5"):
        train(Recorder(bad_epoch=1), FakeLoader(12), checkpoints=tmp_path)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["000001.pt"]


def test_progress_is_told_seldom_and_counts_steps(monkeypatch):
    told = []
    train(Recorder(), FakeLoader(12), progress=lambda **values: told.append(values))
    assert told == []
    monkeypatch.setattr(fitting, "PROGRESS_EVERY_S", -1.0)
    train(Recorder(), FakeLoader(12), progress=lambda **values: told.append(values))
    assert [(values["done"], values["total"], values["note"]) for values in told][::4] == [
        (1, 9, "epoch 1"), (5, 9, "epoch 2"), (9, 9, "epoch 3")]
