"""The training loop: epochs of batches through a trainee, resumable bit for bit from the end of any epoch.

What is random in it is a function of (seed, epoch, sample), so a checkpoint needs no generator's state but the trainee's own.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from harness import checkpoint
from harness.settings import ScheduleSettings
from harness.stage import Stopped
from harness.timer import Timer
from harness.train.schedule import learning_rate
from loaders.backend import Loader
from loaders.plan import LoaderPlan
from writers.errors import UserError

CHECKPOINT_EVERY_S = 30.0
PROGRESS_EVERY_S = 1.0

Record = dict[str, Any]     # epoch, lr (of its first step), train_loss, train_top1, num_images, num_steps, seconds


class Trainee(Protocol):
    """What learns from batches: one model, or several heads on one backbone."""

    @property
    def peak_lr(self) -> float:
        """The highest learning rate of its schedule; of several heads, that of the lowest."""

    def set_rate(self, fraction: float) -> None:
        """The learning rate of the next steps, as a fraction of each one's peak."""

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        """One step of the optimizer. Never waits for the GPU."""

    def totals(self) -> dict[str, float]:
        """`loss`, `top1`, `num_images` and `zero_gradients` since the last call."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Diverged(UserError):
    """The loss is not a number any more."""


@dataclass
class Clock:
    """Wall-clock seconds and counts of a training loop; they add up over restarts."""

    train_s: float = 0.0
    checkpoint_s: float = 0.0
    num_steps: int = 0
    num_images: int = 0
    zero_gradients: int = 0
    spans_s: dict[str, float] = field(default_factory=dict)


def fit(trainee: Trainee, loader: Loader, schedule: ScheduleSettings, *, num_epochs: int, timer: Timer, clock: Clock,
        steps_per_epoch: int | None = None, checkpoints: Path | None = None, stop_requested: Callable[[], bool] = lambda: False,
        progress: Callable[..., None] = lambda **values: None) -> Iterator[Record]:
    """Train; yields a record per pass over the data, those of passes before a resume included.

    steps_per_epoch: what counts as an epoch, in num_epochs and in the schedule (None: a pass). Where passes are shorter
    there are more of them, and the last may end early; learning rates are, step by step, those of the longer data.
    A last batch of one image is left out, for which BatchNorm has no variance; the next pass has another order.
    `clock` and `checkpoints` (a folder) carry over from an interrupted run.
    Raises Stopped at the next step once `stop_requested`; Diverged, with epoch and rate, where the loss is not finite.
    """
    steps_per_pass = num_batches(loader.plan, loader.num_samples)
    steps_per_epoch = steps_per_epoch or steps_per_pass
    total = num_epochs * steps_per_epoch
    num_passes = math.ceil(total / steps_per_pass)
    records = _resume(trainee, clock, timer, checkpoints)
    yield from records
    saved_at = shown_at = time.monotonic()
    step = sum(record["num_steps"] for record in records)
    for epoch in range(len(records), num_passes):
        started, first_step = time.monotonic(), step
        rate = learning_rate(schedule, 1.0, step, total, steps_per_epoch)
        with loader.epoch(epoch) as batches:
            while step < min(total, first_step + steps_per_pass):
                if stop_requested():
                    raise Stopped
                with timer.span("data_wait"):
                    images, labels = next(batches)
                trainee.set_rate(learning_rate(schedule, 1.0, step, total, steps_per_epoch))
                trainee.train_batch(images, labels)
                step += 1
                if time.monotonic() - shown_at > PROGRESS_EVERY_S:
                    shown_at = time.monotonic()
                    rate_now = (step - first_step) * loader.plan.batch_size / (shown_at - started)
                    progress(done=step, total=total, img_per_s=rate_now, note=f"epoch {epoch + 1}")
        totals, spans_s = trainee.totals(), timer.read()
        seconds = time.monotonic() - started
        if not math.isfinite(totals["loss"]):
            raise Diverged(f"The loss is {totals['loss']} after epoch {epoch + 1} of {num_passes}, with a peak learning rate "
                           f"of {trainee.peak_lr:g}.",
                           "Lower the learning rate, lengthen warmup_epochs, or use precision: float32.")
        clock.train_s += seconds
        clock.num_steps, clock.spans_s = step, spans_s
        clock.num_images += int(totals["num_images"])
        clock.zero_gradients += int(totals["zero_gradients"])
        records.append({"epoch": epoch + 1, "lr": rate * trainee.peak_lr, "train_loss": totals["loss"],
                        "train_top1": totals["top1"], "num_images": int(totals["num_images"]),
                        "num_steps": step - first_step, "seconds": seconds})
        # Also at the very end of a long run: what comes behind it may be interrupted, too.
        due = time.monotonic() - saved_at > CHECKPOINT_EVERY_S or (step == total and clock.train_s > CHECKPOINT_EVERY_S)
        stop = stop_requested()
        if checkpoints is not None and (due or stop):
            _save(trainee, clock, records, checkpoints)
            saved_at = time.monotonic()
        if stop:
            raise Stopped
        yield records[-1]


def num_batches(plan: LoaderPlan, num_samples: int) -> int:
    """Steps per pass: batches, without a last one of a single image (unless it is all there is)."""
    whole, rest = divmod(num_samples, plan.batch_size)
    return max(1, whole + int(rest > 1 and not plan.drop_last))


def _save(trainee: Trainee, clock: Clock, records: list[Record], folder: Path) -> None:
    started = time.monotonic()
    checkpoint.save(folder, len(records), {"trainee": trainee.state_dict(), "clock": vars(clock), "records": records})
    clock.checkpoint_s += time.monotonic() - started


def _resume(trainee: Trainee, clock: Clock, timer: Timer, folder: Path | None) -> list[Record]:
    """Load the last checkpoint, if there is one; returns the records of the epochs that it has behind it."""
    found = checkpoint.latest(folder) if folder is not None else None
    if found is None:
        return []
    _, state = found
    trainee.load_state_dict(state["trainee"])
    vars(clock).update(state["clock"])
    timer.seconds.update(clock.spans_s)
    return list(state["records"])
