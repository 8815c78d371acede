"""Sum the times of a transfer over all of its learners."""

from collections.abc import Sequence
from typing import Any

from harness.profiling.timer import summary
from harness.train.fit import Clock


def timing_of(
    clocks: Sequence[Clock], eval_s: float, startup_s: float, replay_img_per_s: float | None
) -> dict[str, Any]:
    """Sum the times of all learners into the `timing` record of a result.

    Args:
        clocks: times and counts of each learner.
        eval_s: seconds spent on evaluation.
        startup_s: seconds before the first step.
        replay_img_per_s: images/s with one repeated batch; None if it was not measured.

    Returns:
        Times per phase and per step, and rates; see `harness.profiling.timer.summary`.
    """
    spans = {
        name: sum(clock.spans_s.get(name, 0.0) for clock in clocks)
        for clock in clocks
        for name in clock.spans_s
    }
    return summary(
        spans,
        num_steps=sum(clock.num_steps for clock in clocks),
        num_images=sum(clock.num_images for clock in clocks),
        train_s=sum(clock.train_s for clock in clocks),
        checkpoint_s=sum(clock.checkpoint_s for clock in clocks),
        eval_s=eval_s,
        startup_s=startup_s,
        replay_img_per_s=replay_img_per_s,
    )
