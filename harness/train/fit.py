"""The training loop: epochs of batches through a learner, resumable bit for bit from any step.

What is random in the batches is a function of (seed, epoch, sample), so the place in them is two numbers. A checkpoint holds
those, the learner's state, and the states of the global generators, which dropout and its like draw from. Where several
processes train together, each runs this loop, on its part of every batch; the first one writes, for all.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.config.train import ScheduleSettings
from harness.profiling.timer import Timer
from harness.runner.context import Stopped
from harness.system.distributed import SINGLE_PROCESS, AsyncFlags, ProcessGroup
from harness.train import checkpoint
from harness.train.divergence import Diverged
from harness.train.learner import Learner
from harness.train.records import EpochRecord
from harness.train.schedule import learning_rate
from loaders.backend import Loader
from loaders.plan import LoaderPlan
from writers.errors import UserError

CHECKPOINT_EVERY_S = 300.0
FINAL_CHECKPOINT_S = 30.0  # training that took longer is saved at its end: what comes behind it may be interrupted, too
PROGRESS_EVERY_S = 1.0
FROM_THE_FIRST_STEP = (
    "No step was finite. Likely causes: wrong pixels, wrong weights that were loaded, or a defect of the CPU's kernels "
    "(run `harness doctor`). precision: float32 rules out the number format."
)

SAME_IN_ALL_RANKS = (
    "model",
    "optimizer",
    "ema",
    "compile_mode",
)  # of a learner's state; the rest is each process's own


@dataclass
class Clock:
    """Wall-clock seconds and counts of a training loop; they add up over restarts."""

    train_s: float = 0.0
    checkpoint_s: float = 0.0  # without the one before each restart: its own time is not in it
    num_steps: int = 0
    num_images: int = 0
    zero_gradients: int = 0
    spans_s: dict[str, float] = field(default_factory=dict)
    num_restarts: int = 0
    damaged_checkpoints: list[str] = field(
        default_factory=list
    )  # a line for each that was passed over


@dataclass(frozen=True)
class Checkpoints:
    """Where a training loop leaves its state, and how often."""

    folder: Path
    device: str = "cpu"  # whose generator is saved, too
    every_s: float = CHECKPOINT_EVERY_S
    group: ProcessGroup = SINGLE_PROCESS


def fit(
    learner: Learner,
    loader: Loader,
    schedule: ScheduleSettings,
    *,
    num_epochs: int,
    timer: Timer,
    clock: Clock,
    steps_per_epoch: int | None = None,
    num_steps: int | None = None,
    resolution_at: Callable[[int], int] | None = None,
    checkpoints: Checkpoints | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    progress: Callable[..., None] = lambda **values: None,
    after_step: Callable[[], None] = lambda: None,
) -> Iterator[EpochRecord]:
    """Train; yields a record per pass over the data, those of passes before a resume included.

    steps_per_epoch: what counts as an epoch, in num_epochs and in the schedule (None: a pass). Where passes are shorter
    there are more of them, and the last may end early; learning rates are, step by step, those of the longer data.
    num_steps: of the whole training, whatever num_epochs says; the schedule still counts its epochs.
    resolution_at: pixels a side in epoch 0, 1, ... of the schedule; a pass keeps that of its first step. None: the plan's.
    A last batch is left out where it gives no two images to each process: BatchNorm has no variance for one. The next pass
    has another order. Processes with a different number of images in a last batch weigh in by them.
    `clock` and `checkpoints` carry over from an interrupted run. after_step: called after each step.
    Raises Stopped at the next step once `stop_requested` in any process, behind a checkpoint; Diverged, with step, learning
    rate and last good checkpoint, where the loss or a weight is not finite. The first step is checked at once (one wait for the
    GPU), the others at the end of a pass and before a checkpoint.
    """
    run = _Run(
        learner,
        timer,
        clock,
        schedule,
        checkpoints,
        steps_per_pass=num_batches(loader.plan, loader.num_samples),
        steps_per_epoch=steps_per_epoch,
        num_epochs=num_epochs,
        num_steps=num_steps,
    )
    run.resume()
    yield from run.records
    shown_at = time.monotonic()
    while run.step < run.num_steps:
        first_step = run.first_step
        last_step = min(run.num_steps, first_step + run.steps_per_pass)
        resolution = (
            resolution_at(first_step // run.steps_per_epoch)
            if resolution_at
            else loader.plan.resolution
        )
        with loader.epoch(
            len(run.records), resolution, start_batch=run.step - first_step
        ) as batches:
            run.start_clock()
            while run.step < last_step:
                stop, save = run.flags.reduce(stop_requested(), run.save_is_due())
                if stop or save:
                    run.save()
                    if stop:
                        raise Stopped
                with timer.span("data_wait"):
                    images, labels = next(batches)
                learner.set_rate(run.rate(run.step))
                learner.train_batch(images, labels)
                timer.end_step()
                run.step += 1
                if run.step == 1:
                    run.check_finite()
                after_step()
                if time.monotonic() - shown_at > PROGRESS_EVERY_S:
                    shown_at = time.monotonic()
                    progress(
                        done=run.step,
                        total=run.num_steps,
                        img_per_s=run.img_per_s(loader.plan.batch_size),
                        note=f"epoch {len(run.records) + 1}",
                    )
        run.end_pass(resolution)
        is_end = run.step == run.num_steps and clock.train_s > FINAL_CHECKPOINT_S
        stop, save = run.flags.reduce_now(stop_requested(), run.save_is_due() or is_end)
        if stop or save:
            run.save()
        if stop:
            raise Stopped
        yield run.records[-1]


def num_batches(plan: LoaderPlan, num_samples: int) -> int:
    """Steps per pass, in every process: batches, without a last one that has no two images for each (unless it is all)."""
    whole, rest = divmod(num_samples, plan.batch_size)
    return max(1, whole + int(rest >= 2 * plan.world_size and not plan.drop_last))


class _Run:
    """How far a training loop is, what it has recorded, and its checkpoints."""

    def __init__(
        self,
        learner: Learner,
        timer: Timer,
        clock: Clock,
        schedule: ScheduleSettings,
        checkpoints: Checkpoints | None,
        *,
        steps_per_pass: int,
        steps_per_epoch: int | None,
        num_epochs: int,
        num_steps: int | None,
    ) -> None:
        self._trainee, self._timer, self._clock, self._schedule = learner, timer, clock, schedule
        self._checkpoints = checkpoints
        self._group = checkpoints.group if checkpoints else SINGLE_PROCESS
        self.flags = AsyncFlags(self._group)
        self.steps_per_pass, self.steps_per_epoch = (
            steps_per_pass,
            steps_per_epoch or steps_per_pass,
        )
        self.num_steps = num_steps or num_epochs * self.steps_per_epoch
        self._num_epochs = -(-self.num_steps // self.steps_per_epoch)
        self.step = 0
        self.records: list[EpochRecord] = []
        self._pass_s = self._pass_checkpoint_s = 0.0  # of the pass that has begun
        self._steps_since_start = 0  # ... since the clock was started
        self._last_good: Path | None = None
        self._saved_at = self._started_at = time.monotonic()
        self._saved_step: int | None = None

    @property
    def first_step(self) -> int:
        """Of the pass that has begun."""
        return sum(record["num_steps"] for record in self.records)

    def rate(self, step: int) -> float:
        """As a fraction of the peak."""
        return learning_rate(self._schedule, 1.0, step, self.num_steps, self.steps_per_epoch)

    def start_clock(self) -> None:
        self._started_at, self._steps_since_start = time.monotonic(), self.step

    def img_per_s(self, batch_size: int) -> float:
        return (
            (self.step - self._steps_since_start)
            * batch_size
            / max(1e-9, time.monotonic() - self._started_at)
        )

    def save_is_due(self) -> bool:
        return (
            self._checkpoints is not None
            and time.monotonic() - self._saved_at > self._checkpoints.every_s
        )

    def save(self) -> None:
        """Leave a checkpoint of this moment. Raises Diverged rather than keeping what is not worth keeping."""
        if self._checkpoints is None or self._saved_step == self.step:
            return
        self.check_finite()
        self._stop_clock()
        started = time.monotonic()
        learner, random = (
            self._trainee.state_dict(),
            checkpoint.random_state(self._checkpoints.device),
        )
        own = {key: value for key, value in learner.items() if key not in SAME_IN_ALL_RANKS}
        state = {
            "learner": learner,
            "timer": self._timer.state_dict(),
            "clock": vars(self._clock),
            "records": self.records,
            "step": self.step,
            "pass_s": self._pass_s,
            "pass_checkpoint_s": self._pass_checkpoint_s,
            "random": random,
        }
        if self._group.world_size > 1:
            state["ranks"] = self._group.all_gather({"learner": own, "random": random})
        path = (
            str(checkpoint.save(self._checkpoints.folder, self.step, state))
            if self._group.is_main
            else ""
        )
        self._last_good = Path(self._group.broadcast(path))  # the others wait until it is written
        self._saved_at, self._saved_step = time.monotonic(), self.step
        self._clock.checkpoint_s += self._saved_at - started
        self._pass_checkpoint_s += self._saved_at - started
        self.start_clock()

    def resume(self) -> None:
        """Go on from the last checkpoint that is whole, if there is one."""
        if self._checkpoints is None:
            return
        found = _latest(self._checkpoints)
        if (state := found.state) is not None:
            self._trainee.load_state_dict(state["learner"])
            self._timer.load_state_dict(state["timer"])
            vars(self._clock).update(state["clock"])
            self.records, self.step = list(state["records"]), state["step"]
            self._pass_s, self._pass_checkpoint_s = state["pass_s"], state["pass_checkpoint_s"]
            checkpoint.set_random_state(state["random"], self._checkpoints.device)
            self._last_good, self._saved_step = found.path, self.step
            self._clock.num_restarts += 1
        self._clock.damaged_checkpoints += found.damaged

    def end_pass(self, resolution: int) -> None:
        """Record the pass that ends here. Raises Diverged."""
        self.check_finite()
        totals, timing, clock, first_step = (
            self._trainee.totals(),
            self._timer.end_epoch(),
            self._clock,
            self.first_step,
        )
        self._stop_clock()
        clock.num_steps, clock.spans_s = self.step, dict(self._timer.seconds)
        clock.num_images += int(totals["num_images"])
        clock.zero_gradients += int(totals["zero_gradients"])
        self.records.append(
            {
                "epoch": len(self.records) + 1,
                "lr": self.rate(first_step) * self._trainee.peak_lr,
                "train_loss": totals["loss"],
                "train_top1": totals["top1"],
                "num_images": int(totals["num_images"]),
                "num_steps": self.step - first_step,
                "resolution": resolution,
                "timing": {
                    "train_s": self._pass_s,
                    "checkpoint_s": self._pass_checkpoint_s,
                    "img_per_s": totals["num_images"] / max(1e-9, self._pass_s),
                    **timing,  # type: ignore[typeddict-item]
                },
            }
        )
        self._pass_s = self._pass_checkpoint_s = 0.0

    def _stop_clock(self) -> None:
        now = time.monotonic()
        self._clock.train_s += now - self._started_at
        self._pass_s += now - self._started_at
        self._started_at = now

    def check_finite(self) -> None:
        """Raise Diverged if the loss or a weight is not finite. After the first step this tells a rate from other causes."""
        bad = self._trainee.first_bad_step()
        if bad is None:
            return
        step = self.first_step + bad
        where = (
            f"Last good checkpoint: {self._last_good}."
            if self._last_good
            else "There is no checkpoint from before."
        )
        raise Diverged(
            f"The loss or a weight is not finite from step {step + 1} of {self.num_steps} on (epoch "
            f"{step // self.steps_per_epoch + 1} of {self._num_epochs}, learning rate "
            f"{self.rate(step) * self._trainee.peak_lr:.3g} of a peak of {self._trainee.peak_lr:g}). {where}",
            FROM_THE_FIRST_STEP
            if step == 0
            else "Lower the learning rate, lengthen warmup_epochs, or use precision: float32.",
        )


def _latest(checkpoints: Checkpoints) -> checkpoint.Found:
    """What the first process finds, with this one's own state in it. Raises UserError where others have left it."""
    group = checkpoints.group
    if group.world_size == 1:
        found = checkpoint.latest(checkpoints.folder)
    else:
        found = checkpoint.latest(checkpoints.folder) if group.is_main else checkpoint.Found()
        state, path, damaged = group.broadcast(
            (found.state, str(found.path) if found.path else None, found.damaged)
        )
        found = checkpoint.Found(state, Path(path) if path else None, damaged)
    if found.state is None:
        return found
    of_ranks = found.state.get("ranks", [found.state])
    if len(of_ranks) != group.world_size:
        raise UserError(
            f"{found.path} was left by {len(of_ranks)} processes, and there are {group.world_size} now: each has "
            "random numbers of its own, so that they would not go on as those would have.",
            f"Use as many, or delete {checkpoints.folder} to begin anew.",
        )
    own = of_ranks[group.rank]
    state = {
        **found.state,
        "learner": {**found.state["learner"], **own["learner"]},
        "random": own["random"],
    }
    return checkpoint.Found(state, found.path, found.damaged)
