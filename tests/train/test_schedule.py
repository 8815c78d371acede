"""Learning rates, compared with torch's schedulers, and at start, peak and end."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config.train import ScheduleSettings
from harness.train.schedule import learning_rate

PER_EPOCH, STEPS = 5, 50


def curve(num_steps: int = STEPS, peak: float = 0.4, **settings: object) -> list[float]:
    return [
        learning_rate(ScheduleSettings(**settings), peak, step, num_steps, PER_EPOCH)
        for step in range(num_steps)
    ]


def torchs(scheduler: type, **settings: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule, rates = scheduler(optimizer, **settings), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_and_step_equal_torch():
    assert np.allclose(
        curve(schedule="cosine"), torchs(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS)
    )
    assert np.allclose(
        curve(schedule="step", step_epochs=3, step_factor=0.5),
        torchs(torch.optim.lr_scheduler.StepLR, step_size=3 * PER_EPOCH, gamma=0.5),
    )


def test_cyclic_rises_and_falls_linearly():
    rates = curve(schedule="cyclic", warmup_epochs=2)
    assert np.allclose(rates, np.interp(range(STEPS), [-1, 2 * PER_EPOCH, STEPS], [0, 0.4, 0]))
    assert int(np.argmax(rates)) == 2 * PER_EPOCH and rates[10] == 0.4


def test_a_constant_schedule_keeps_the_rate():
    assert curve(schedule="constant") == [0.4] * STEPS


@pytest.mark.parametrize(
    "schedule",
    [{"schedule": "cosine"}, {"schedule": "constant"}, {"schedule": "step", "step_epochs": 4}],
)
def test_warmup_is_linear_to_the_peak(schedule):
    rates = curve(warmup_epochs=2, **schedule)
    assert np.allclose(rates[:11], 0.4 * np.arange(1, 12) / 11)
    assert rates[10] == 0.4 == max(rates)


def test_step_counts_epochs_from_the_start_after_warmup():
    rates = curve(warmup_epochs=2, schedule="step", step_epochs=4)
    assert rates[19] == pytest.approx(0.4)
    assert rates[20] == pytest.approx(0.04)
    assert rates[40] == pytest.approx(0.004)


def test_ends_near_zero():
    assert 0 < curve(schedule="cosine")[-1] < 0.001
    assert curve(schedule="cyclic")[-1] == pytest.approx(0.4 / STEPS)


@given(
    st.sampled_from(["cosine", "cyclic", "constant"]),
    st.floats(0, 30),
    st.integers(1, 60),
    st.integers(1, 9),
)
def test_never_zero_and_never_above_the_peak(schedule, warmup, num_steps, per_epoch):
    settings = ScheduleSettings(schedule=schedule, warmup_epochs=warmup)
    for step in range(num_steps):
        assert 0 < learning_rate(settings, 0.4, step, num_steps, per_epoch) <= 0.4


def test_steps_outside_training_are_refused():
    with pytest.raises(AssertionError):
        learning_rate(ScheduleSettings(), 0.4, STEPS, STEPS, PER_EPOCH)
