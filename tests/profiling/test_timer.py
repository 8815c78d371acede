"""Timer: spans, percentiles, GPU events, summary and verdict."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.profiling.timer import SPANS, Timer, summary, verdict
from harness.train import replay


def test_spans_add_up_and_come_from_the_clock():
    timer = Timer("cpu")
    started = time.perf_counter()
    for _ in range(3):
        with timer.span("attack"):
            time.sleep(0.01)
        timer.end_step()
    whole = time.perf_counter() - started
    with pytest.raises(KeyError), timer.span("optimizer"):
        raise KeyError
    spans = timer.end_epoch()["spans_s"]
    assert 0.03 <= spans["attack"] <= whole and spans["attack"] == timer.seconds["attack"]
    assert spans["optimizer"] == 0


class FakeClock:
    now = 0.0
    device_now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr("harness.profiling.timer.time", clock)
    return clock


def spend(timer: Timer, clock: FakeClock, name: str, seconds: float) -> None:
    with timer.span(name):
        clock.now += seconds


def test_percentiles_over_steps_equal_numpys(clock):
    timer, generator = Timer("cpu"), np.random.default_rng(0)
    columns = generator.exponential(1, (200, 2))
    for waits, computes in columns:
        spend(timer, clock, "data_wait", waits)
        spend(timer, clock, "forward", computes / 2)
        # Two micro-batches count as one span of the step.
        spend(timer, clock, "forward", computes / 2)
        timer.end_step()
    percentiles = timer.end_epoch()["percentiles_ms"]
    for name, column in (
        ("data_wait", columns[:, 0]),
        ("forward", columns[:, 1]),
        ("step", columns.sum(1)),
    ):
        assert [percentiles[name][f"p{q}"] for q in (50, 90, 99)] == pytest.approx(
            1000 * np.percentile(column, (50, 90, 99))
        )
    assert percentiles["copy"] == {"p50": 0.0, "p90": 0.0, "p99": 0.0}
    spend(timer, clock, "data_wait", 5.0)
    timer.end_step()
    # The next epoch does not include the steps of the last one.
    assert timer.end_epoch()["percentiles_ms"]["step"]["p50"] == pytest.approx(5000)
    assert timer.seconds["data_wait"] == pytest.approx(columns[:, 0].sum() + 5)
    assert timer.end_epoch()["percentiles_ms"]["step"]["p99"] == 0


def test_a_saved_half_epoch_continues(clock):
    """State saved within an epoch gives the percentiles of the whole epoch."""
    whole, first = Timer("cpu"), Timer("cpu")
    for seconds in (1.0, 2.0, 3.0):
        spend(whole, clock, "attack", seconds)
        whole.end_step()
    spend(first, clock, "attack", 1.0)
    first.end_step()
    second = Timer("cpu")
    second.load_state_dict(first.state_dict())
    for seconds in (2.0, 3.0):
        spend(second, clock, "attack", seconds)
        second.end_step()
    assert second.end_epoch() == whole.end_epoch() and second.seconds == whole.seconds


def test_a_disabled_timer_measures_nothing():
    timer = Timer("cpu", enabled=False)
    with timer.span("attack"):
        pass
    timer.end_step()
    assert timer.end_epoch()["spans_s"]["attack"] == 0


class FakeEvent:
    """A CUDA event that records the time of FakeClock.device_now, in seconds."""

    made = 0

    def __init__(self, enable_timing: bool) -> None:
        FakeEvent.made += 1

    def record(self) -> None:
        self.at = FakeClock.device_now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, last: "FakeEvent") -> float:
        return 1000 * (last.at - self.at)


def test_on_a_gpu_waiting_is_split_into_the_loader_and_the_copy(clock, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    timer, FakeClock.device_now, FakeEvent.made = Timer("cuda"), 0.0, 0
    for _ in range(3):
        with timer.span("data_wait"):
            clock.now += 1.0  # the host waits for 1 s, the device for 3 s: 2 s are the copy
            FakeClock.device_now += 3.0
        with timer.span("attack"):
            FakeClock.device_now += 4.0
        timer.end_step()
        made = FakeEvent.made
        timer.state_dict()
    spans = timer.end_epoch()["spans_s"]
    assert (spans["data_wait"], spans["copy"], spans["attack"]) == (3.0, 6.0, 12.0)
    assert FakeEvent.made == made == 4  # events are reused


def test_the_summary_computes_rates_and_shares():
    timing = summary(
        {"data_wait": 1.0, "backward": 8.0},
        num_steps=50,
        num_images=1000,
        train_s=10.0,
        eval_s=1.0,
        checkpoint_s=0.5,
        startup_s=2.0,
        replay_img_per_s=125.0,
    )
    assert timing["spans_s"] == {
        "data_wait": 1.0,
        "copy": 0.0,
        "augment": 0.0,
        "attack": 0.0,
        "forward": 0.0,
        "backward": 8.0,
        "optimizer": 0.0,
    }
    assert timing["per_step_ms"]["backward"] == pytest.approx(160)
    assert (timing["img_per_s"], timing["gpu_fed"], timing["data_wait_fraction"]) == (
        100.0,
        0.8,
        0.1,
    )
    assert set(timing["per_step_ms"]) == set(SPANS)
    unknown = summary(
        {},
        num_steps=0,
        num_images=0,
        train_s=0.0,
        eval_s=0.0,
        checkpoint_s=0.0,
        startup_s=0.0,
        replay_img_per_s=None,
    )
    assert (unknown["img_per_s"], unknown["gpu_fed"]) == (0.0, None)


@pytest.mark.parametrize(
    ("waits", "copies", "words"),
    [
        (0.0, 0.0, "busy 100 %"),
        (0.03, 0.0, "busy 97 %"),
        (0.41, 0.0, "waits for data 41 %"),
        (0.41, 0.2, "waits for data 41 %"),
        (0.02, 0.02, "busy 96 %"),
        (0.1, 0.3, "waits 40 % of the time, mostly for copies"),
    ],
)
def test_verdict_by_waits(waits, copies, words):
    assert words in verdict(waits, copies)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.1, "at 10 % of the GPU's peak: try compile: auto"),
        (0.45, "busy 100 % of the time, at 45 % of the GPU's peak."),
    ],
)
def test_verdict_by_peak_share(share, words):
    timing = summary(
        {},
        num_steps=1,
        num_images=1,
        train_s=10.0,
        eval_s=0.0,
        checkpoint_s=0.0,
        startup_s=0.0,
        replay_img_per_s=None,
        flops=share * 5e12 * 10,
        peak_flops_per_s=5e12,
    )
    assert timing["peak_share"] == pytest.approx(share)
    assert timing["model_flops_per_s"] == pytest.approx(share * 5e12)
    assert words in timing["verdict"]


def test_verdict_of_waits_for_copies():
    timing = summary(
        {"copy": 4.0},
        num_steps=1,
        num_images=1,
        train_s=10.0,
        eval_s=0.0,
        checkpoint_s=0.0,
        startup_s=0.0,
        replay_img_per_s=None,
    )
    assert timing["data_wait_fraction"] == 0
    assert "40 %" in timing["verdict"] and "busy" not in timing["verdict"]


def summary_of(num_images: int, replay_img_per_s: float | None) -> dict[str, Any]:
    return summary(
        {},
        num_steps=num_images // 10,
        num_images=num_images,
        train_s=10.0,
        eval_s=0.0,
        checkpoint_s=0.0,
        startup_s=0.0,
        replay_img_per_s=replay_img_per_s,
    )


def test_a_rate_above_the_replay_is_not_clamped():
    assert summary_of(1000, 80.0)["gpu_fed"] == pytest.approx(1.25)


def test_training_on_cached_features_is_not_called_busy():
    timing = summary_of(0, None)
    assert timing["gpu_fed"] is None and "cached features" in timing["verdict"]
    assert "busy" not in timing["verdict"]


@pytest.mark.parametrize(("num_images", "num_rates"), [(0, 1), (10**12, 3)])
def test_a_replay_slower_than_training_is_repeated(monkeypatch, num_images, num_rates):
    rates = iter([1.0, 5.0, 3.0])
    taken: list[float] = []

    def rate(*args: object) -> float:
        taken.append(next(rates))
        return taken[-1]

    monkeypatch.setattr(replay, "_rate", rate)
    learner = SimpleNamespace(train_batch=lambda images, labels: None)
    found = replay.replay_rate(learner, torch.zeros(1), torch.zeros(1), 10.0, num_images=num_images)
    assert (len(taken), found) == (num_rates, 1.0 if num_rates == 1 else 3.0)
