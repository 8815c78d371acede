"""The training loop, with a learner that records its steps: rates, stops, resume, divergence."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.config.train import ScheduleSettings
from harness.profiling.timer import Timer
from harness.runner.context import Stopped
from harness.train import checkpoint
from harness.train.checkpoint import Checkpoints
from harness.train.divergence import DivergedError
from harness.train.fit import NO_HOOKS, Clock, Hooks, TrainingPlan, fit
from harness.train.schedule import learning_rate
from loaders.backend import Loader, PlainEpoch
from loaders.plan import LoaderPlan

CONSTANT = ScheduleSettings(schedule="constant")


class FakeLoader(Loader):
    """Loader whose pixels are the number of the batch and whose labels are the number of the epoch.

    `opened` lists the iterators that it returned.
    """

    def __init__(self, num_samples: int, batch_size: int = 4, drop_last: bool = False) -> None:
        super().__init__(
            LoaderPlan(Path("none.beton"), batch_size, 2, drop_last=drop_last), samples=None
        )
        self._num_samples = num_samples
        self.opened: list[PlainEpoch] = []

    @property
    def num_samples(self) -> int:
        return self._num_samples

    def epoch(self, epoch: int, resolution: int | None = None, start_batch: int = 0) -> PlainEpoch:
        sizes = [
            min(self.plan.batch_size, self.num_samples - first)
            for first in range(0, self.num_samples, self.plan.batch_size)
        ]
        if self.plan.drop_last and sizes[-1] < self.plan.batch_size:
            sizes.pop()
        side = resolution or self.plan.resolution
        self.opened.append(
            PlainEpoch(
                (
                    torch.full((size, 3, side, side), number, dtype=torch.uint8),
                    torch.full((size,), epoch),
                )
                for number, size in enumerate(sizes)
                if number >= start_batch
            )
        )
        return self.opened[-1]

    def start(self, order: np.ndarray, epoch: int, resolution: int) -> PlainEpoch:
        raise NotImplementedError("`epoch` needs no samples")

    def close(self) -> None:
        pass


class Recorder:
    """Learner that records (epoch, batch size, rate) of each step.

    `total` depends on all batches so far, as weights do, and is saved in checkpoints.
    """

    peak_lr = 0.5

    def __init__(self, bad_step: int | None = None) -> None:
        self.steps: list[tuple[int, int, float]] = []
        self.places: list[tuple[int, int, int]] = []  # epoch, batch, resolution
        self.total, self._images, self._rate = 0.0, 0, 0.0
        self._bad_step, self._steps_before = bad_step, 0

    def set_rate(self, fraction: float) -> None:
        self._rate = fraction

    def train_batch(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.steps.append((int(labels[0]), len(labels), self._rate))
        self.places.append((int(labels[0]), int(images[0, 0, 0, 0]), images.shape[-1]))
        noise = float(torch.rand(()))  # reads the random generator, like dropout
        self.total = 0.9 * self.total + self._rate * (
            int(labels[0]) + int(images[0, 0, 0, 0]) + images.shape[-1] + noise
        )
        self._images += len(labels)

    def first_bad_step(self) -> int | None:
        bad = self._bad_step is not None and len(self.steps) > self._bad_step
        return self._bad_step - self._steps_before if bad else None

    def totals(self) -> dict[str, float]:
        images, self._images, self._steps_before = self._images, 0, len(self.steps)
        return {"loss": self.total, "top1": 0.25, "num_images": images, "zero_gradients": 2}

    def state_dict(self) -> dict[str, float]:
        return {"total": self.total, "images": self._images}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.total, self._images = state["total"], state["images"]


def train(
    learner: Recorder,
    loader: Loader,
    schedule: ScheduleSettings = CONSTANT,
    *,
    epochs: int = 3,
    clock: Clock | None = None,
    checkpoints: Checkpoints | None = None,
    hooks: Hooks = NO_HOOKS,
    **length,
):
    return list(
        fit(
            learner,
            loader,
            TrainingPlan(schedule, epochs, **length),
            timer=Timer("cpu"),
            clock=clock or Clock(),
            checkpoints=checkpoints,
            hooks=hooks,
        )
    )


def without_seconds(records):
    return [{key: value for key, value in record.items() if key != "timing"} for record in records]


def often(folder: Path) -> Checkpoints:
    """Checkpoints that are saved after every step."""
    return Checkpoints(folder, every_s=-1.0)


def resolution_at(epoch: int) -> int:
    return (2, 2, 4)[epoch]


@pytest.mark.parametrize(
    ("num_samples", "drop_last", "sizes"),
    [
        (8, False, [4, 4]),
        (10, False, [4, 4, 2]),
        (9, False, [4, 4]),
        (9, True, [4, 4]),
        (11, True, [4, 4]),
        (1, False, [1]),
    ],
)
def test_epochs_drop_a_last_batch_of_one_image(num_samples, drop_last, sizes):
    learner = Recorder()
    records = train(learner, FakeLoader(num_samples, drop_last=drop_last), epochs=2)
    assert [step[:2] for step in learner.steps] == [
        (epoch, size) for epoch in range(2) for size in sizes
    ]
    assert [record["num_images"] for record in records] == [sum(sizes)] * 2


def test_batches_of_one_image_are_used_if_that_is_the_batch_size():
    learner = Recorder()
    train(learner, FakeLoader(3, batch_size=1), epochs=1)
    assert [size for _, size, _ in learner.steps] == [1, 1, 1]


def test_the_rate_follows_the_schedule_and_is_recorded():
    schedule = ScheduleSettings(schedule="cosine", warmup_epochs=1)
    learner = Recorder()
    records = train(learner, FakeLoader(12), schedule)
    expected = [learning_rate(schedule, 1.0, step, 9, 3) for step in range(9)]
    assert [rate for _, _, rate in learner.steps] == expected
    assert [record["lr"] for record in records] == pytest.approx(
        [0.5 * expected[step] for step in (0, 3, 6)]
    )
    assert [record["epoch"] for record in records] == [1, 2, 3]


@pytest.mark.parametrize(
    "schedule",
    [
        ScheduleSettings(schedule="step", step_epochs=2),
        ScheduleSettings(schedule="cosine", warmup_epochs=1),
    ],
)
def test_equal_steps_on_fewer_data_have_the_same_rates(schedule):
    whole, few = Recorder(), Recorder()
    train(whole, FakeLoader(20), schedule, epochs=4)  # 4 epochs of 5 steps
    # 20 steps: 6 passes of 3 steps, and 2 more steps.
    records = train(few, FakeLoader(12), schedule, epochs=4, steps_per_epoch=5)
    assert [rate for _, _, rate in few.steps] == [rate for _, _, rate in whole.steps]
    assert [record["num_steps"] for record in records] == [3] * 6 + [2]


@pytest.mark.parametrize("steps_before", range(10))
def test_a_run_stopped_at_any_step_resumes_exactly(tmp_path, steps_before):
    """The steps include the first and last of an epoch; resolutions and random numbers vary."""
    schedule = ScheduleSettings(schedule="cosine")
    whole, whole_clock = Recorder(), Clock()
    torch.manual_seed(1)
    expected = train(
        whole, FakeLoader(11), schedule, clock=whole_clock, resolution_at=resolution_at
    )

    first, loader = Recorder(), FakeLoader(11)
    torch.manual_seed(1)
    with pytest.raises(Stopped):
        train(
            first,
            loader,
            schedule,
            checkpoints=Checkpoints(tmp_path),
            resolution_at=resolution_at,
            hooks=Hooks(lambda: len(first.steps) >= steps_before),
        )
    assert len(first.steps) == steps_before
    with pytest.raises(RuntimeError, match="closed"):
        next(loader.opened[-1])
    second, clock = Recorder(), Clock()
    torch.manual_seed(7)
    records = train(
        second,
        FakeLoader(11),
        schedule,
        checkpoints=Checkpoints(tmp_path),
        clock=clock,
        resolution_at=resolution_at,
    )
    assert first.steps + second.steps == whole.steps
    assert first.places + second.places == whole.places
    assert second.total == whole.total
    assert without_seconds(records) == without_seconds(expected)
    assert [record["resolution"] for record in records] == [2, 2, 4]
    for result in (clock, whole_clock):
        assert (result.num_steps, result.num_images, result.zero_gradients) == (9, 33, 6)
    assert (clock.num_restarts, whole_clock.num_restarts) == (1, 0)
    if steps_before < 9:
        assert [record["timing"]["percentiles_ms"]["step"]["p50"] > 0 for record in records] == [
            True
        ] * 3


def test_clocks_add_up_over_restarts(tmp_path, monkeypatch):
    """On the fake clock a step takes 10 s, a checkpoint 3 s, and a restart 500 s."""

    class Ticking:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    class Slow(Recorder):
        def train_batch(self, images, labels):
            super().train_batch(images, labels)
            ticking.now += 10.0

    ticking = Ticking()
    monkeypatch.setattr("harness.train.fit.time", ticking)
    monkeypatch.setattr(
        checkpoint,
        "save",
        lambda *args, save=checkpoint.save: (
            setattr(ticking, "now", ticking.now + 3.0),
            save(*args),
        )[1],
    )
    clock = Clock()
    for stop_at in (2, 2, 3, 100):
        learner = Slow()
        try:
            records = train(
                learner,
                FakeLoader(12),
                checkpoints=Checkpoints(tmp_path),
                clock=clock,
                hooks=Hooks(lambda learner=learner, stop_at=stop_at: len(learner.steps) >= stop_at),
            )
        except Stopped:
            clock, ticking.now = Clock(), ticking.now + 500.0
    assert clock.train_s == 90.0  # nine steps
    assert [record["timing"]["train_s"] for record in records] == [30.0, 30.0, 30.0]
    # A checkpoint cannot contain the time of its own writing.
    assert clock.checkpoint_s == 3.0 and clock.num_restarts == 3


def test_checkpoints_are_at_least_their_interval_apart_and_also_within_an_epoch(tmp_path):
    train(Recorder(), FakeLoader(12), checkpoints=Checkpoints(tmp_path / "seldom"))
    assert not list(tmp_path.rglob("*.pt"))
    train(Recorder(), FakeLoader(12), checkpoints=often(tmp_path / "often"))
    assert [path.name for path in sorted(tmp_path.rglob("*.pt"))] == [
        "000000008.pt",
        "000000009.pt",
    ]


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(tmp_path, capsys):
    whole, expected = Recorder(), None
    torch.manual_seed(1)
    expected = train(whole, FakeLoader(12))
    torch.manual_seed(1)
    stopped = Recorder()
    with pytest.raises(Stopped):
        train(
            stopped,
            FakeLoader(12),
            checkpoints=often(tmp_path),
            hooks=Hooks(lambda: len(stopped.steps) >= 5),
        )
    newest = tmp_path / "000000005.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 4
    newest.write_bytes(data)
    clock, learner = Clock(), Recorder()
    records = train(learner, FakeLoader(12), checkpoints=Checkpoints(tmp_path), clock=clock)
    assert len(learner.steps) == 5 and learner.total == whole.total  # resumed after step 4
    assert without_seconds(records) == without_seconds(expected)
    assert len(clock.damaged_checkpoints) == 1 and newest.name in clock.damaged_checkpoints[0]
    assert newest.name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad_step", "message"),
    [
        (4, r"from step 5 of 9 on \(epoch 2 of 3, learning rate 0\.25 of a peak of 0\.5\)"),
        (8, r"from step 9 of 9 on \(epoch 3 of 3"),
    ],
)
def test_divergence_names_step_and_rate_and_the_last_good_checkpoint(tmp_path, bad_step, message):
    schedule = ScheduleSettings(schedule="step", step_epochs=1, step_factor=0.5)
    with pytest.raises(
        DivergedError, match=message + r".* Last good checkpoint: .*/00000000" + str(bad_step)
    ):
        train(Recorder(bad_step), FakeLoader(12), schedule, checkpoints=often(tmp_path))
    assert max(path.name for path in tmp_path.glob("*.pt")) == f"00000000{bad_step}.pt"
    with pytest.raises(DivergedError, match="There is no earlier checkpoint"):
        train(Recorder(bad_step), FakeLoader(12), schedule)


@pytest.mark.parametrize("bad_step", [0, 1, 4])
def test_a_lower_rate_is_advised_only_if_the_first_step_was_finite(bad_step):
    learner = Recorder(bad_step)
    with pytest.raises(DivergedError, match=f"from step {bad_step + 1} of 9 on") as failed:
        train(learner, FakeLoader(12))
    advises_rate = "learning rate" in failed.value.hint
    causes = [cause in failed.value.hint for cause in ("pixels", "weights", "`harness doctor`")]
    assert "precision: float32" in failed.value.hint
    assert (advises_rate, causes) == ((False, [True] * 3) if bad_step == 0 else (True, [False] * 3))
    assert len(learner.steps) == (1 if bad_step == 0 else 3 * (bad_step // 3 + 1)), (
        "the first step is checked immediately, others at the end of the epoch"
    )


def test_progress_is_reported_once_per_second_and_counts_steps(monkeypatch):
    reports = []
    hooks = Hooks(progress=lambda **values: reports.append(values))
    train(Recorder(), FakeLoader(12), hooks=hooks)
    assert reports == []
    monkeypatch.setattr("harness.train.fit.PROGRESS_EVERY_S", -1.0)
    train(Recorder(), FakeLoader(12), hooks=hooks)
    assert [(values["done"], values["total"], values["note"]) for values in reports][::4] == [
        (1, 9, "training, epoch 1"),
        (5, 9, "training, epoch 2"),
        (9, 9, "training, epoch 3"),
    ]


@pytest.mark.parametrize(("num_samples", "counts"), [(3, [3, 3]), (10, [4, 8, 10, 4, 8, 10])])
def test_a_rate_counts_the_images_of_partial_batches(
    num_samples: int, counts: list[int], monkeypatch: pytest.MonkeyPatch
):
    """Batches have 4 images. The time stands still, so a rate is a multiple of the images."""
    reports = []
    monkeypatch.setattr("harness.train.fit.PROGRESS_EVERY_S", -1.0)
    monkeypatch.setattr("harness.train.fit.time", SimpleNamespace(monotonic=lambda: 0.0))
    hooks = Hooks(progress=lambda **values: reports.append(values["img_per_s"]))
    train(Recorder(), FakeLoader(num_samples), epochs=2, hooks=hooks)
    assert [rate / max(reports) * max(counts) for rate in reports] == pytest.approx(counts)
    assert max(reports) == pytest.approx(max(counts) * 1e9)
