"""Learning rate schedules."""

import math

from harness.config.train import ScheduleSettings


def learning_rate(
    settings: ScheduleSettings, peak: float, step: int, num_steps: int, steps_per_epoch: int
) -> float:
    """Return the learning rate of a step.

    During warmup the rate rises linearly; it reaches `peak` at the first step after warmup (almost,
    if warmup is not a whole number of steps and the rate then falls from step to step). Cosine
    and cyclic (linear) schedules would reach 0 at step `num_steps`, one step after the last, so no
    step has rate 0.

    Args:
        settings: Kind of schedule and length of warmup.
        peak: Highest learning rate.
        step: Number of the step, from 0 to num_steps - 1.
        num_steps: Number of steps of the whole training.
        steps_per_epoch: Steps per epoch of the schedule.
    """
    assert 0 <= step < num_steps and steps_per_epoch > 0, (step, num_steps, steps_per_epoch)
    num_warmup = settings.warmup_epochs * steps_per_epoch
    if step < num_warmup:
        return peak * (step + 1) / (num_warmup + 1)
    done = (step - num_warmup) / (num_steps - num_warmup)
    match settings.schedule:
        case "cosine":
            return peak * (1 + math.cos(math.pi * done)) / 2
        case "cyclic":
            return peak * (1 - done)
        case "step":
            if settings.step_at is not None:
                return peak * settings.step_factor ** sum(
                    step >= part * num_steps for part in settings.step_at
                )
            assert settings.step_epochs is not None
            return peak * settings.step_factor ** (step // steps_per_epoch // settings.step_epochs)
        case "constant":
            return peak
