"""The learning rate of each step."""

import math

from harness.config.train import ScheduleSettings


def learning_rate(
    settings: ScheduleSettings, peak: float, step: int, num_steps: int, steps_per_epoch: int
) -> float:
    """The rate of step `step` of 0 .. num_steps - 1.

    Warmup rises linearly and meets `peak` at the first step behind it; the curve from there falls to where step `num_steps`
    would have rate 0 (cosine; cyclic: a line). No step has rate 0, which would waste it.
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
