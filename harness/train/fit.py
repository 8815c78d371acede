"""Train a learner on the batches of a loader; training can resume bit for bit from any step.

The random properties of batches depend on (seed, epoch, sample) only, so the numbers of the epoch
and of the step give the position in the data. A checkpoint holds these numbers, the learner's
state, and the states of the global random generators, which dropout uses. If several ranks train
together, each rank runs this loop on its part of every batch, and rank 0 writes the checkpoints.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.config.train import ScheduleSettings
from harness.profiling.timer import Timer
from harness.runner.context import Stopped
from harness.system.distributed import SINGLE_PROCESS, AsyncFlags
from harness.train import checkpoint
from harness.train.checkpoint import Checkpoints
from harness.train.divergence import DivergedError
from harness.train.learner import Learner
from harness.train.records import EpochRecord
from harness.train.schedule import learning_rate
from loaders.backend import Loader
from loaders.plan import LoaderPlan

# If training took more seconds than this, a checkpoint is also saved at its end, because the
# evaluation that follows may be interrupted.
FINAL_CHECKPOINT_S = 30.0
PROGRESS_EVERY_S = 1.0
NEVER_FINITE_HINT = (
    "No step was finite. Likely causes: wrong pixels, wrong loaded weights, or a defect of the "
    "CPU's kernels (run `harness doctor`). precision: float32 rules out the number format."
)

# Entries of a learner's state that are equal on all ranks. Other entries are saved for each rank.
SHARED_STATE = ("model", "optimizer", "ema", "compile_mode")


@dataclass
class Clock:
    """Wall-clock seconds and counts of a training loop, summed over restarts.

    Attributes:
        train_s: Seconds of training, without checkpoints.
        checkpoint_s: Seconds spent writing checkpoints. The last checkpoint before each restart is
            missing, because a checkpoint cannot contain the time of its own writing.
        num_steps: Training steps.
        num_images: Images trained on, over all ranks.
        zero_gradients: Number of zero input gradients of attacks.
        spans_s: Seconds per phase of a step, such as "forward"; see `profiling.timer.SPANS`.
        num_restarts: Number of times that training was resumed.
        damaged_checkpoints: One line for each checkpoint that was skipped.
    """

    train_s: float = 0.0
    checkpoint_s: float = 0.0
    num_steps: int = 0
    num_images: int = 0
    zero_gradients: int = 0
    spans_s: dict[str, float] = field(default_factory=dict)
    num_restarts: int = 0
    damaged_checkpoints: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingPlan:
    """Length of a training, and the learning rates and resolutions over its steps.

    Attributes:
        schedule: Learning rate schedule.
        num_epochs: Length in epochs.
        steps_per_epoch: Number of steps of an epoch, for `num_epochs` and the schedule; None means
            the steps of a pass over the data. It is larger than a pass if a subset trains as long
            as the full data. There are then more passes than epochs, and the last pass may end
            early.
        num_steps: Length in steps, instead of `num_epochs`; None uses `num_epochs`. Settings of the
            schedule are in epochs in both cases.
        resolution_at: Maps the epoch of the schedule, from 0, to the side of the images in pixels.
            A pass keeps the resolution of its first step. None uses the loader plan's resolution.
    """

    schedule: ScheduleSettings
    num_epochs: int
    steps_per_epoch: int | None = None
    num_steps: int | None = None
    resolution_at: Callable[[int], int] | None = None


@dataclass(frozen=True)
class Hooks:
    """Functions that a training loop calls at each step.

    Attributes:
        stop_requested: Returns True if training must stop; one rank's request stops all ranks.
        progress: Receives `done`, `total`, `img_per_s` and `note`, at most once per second.
        after_step: Called after each step.
    """

    stop_requested: Callable[[], bool] = lambda: False
    progress: Callable[..., None] = lambda **values: None
    after_step: Callable[[], None] = lambda: None


NO_HOOKS = Hooks()


def fit(
    learner: Learner,
    loader: Loader,
    plan: TrainingPlan,
    *,
    timer: Timer,
    clock: Clock,
    checkpoints: Checkpoints | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Iterator[EpochRecord]:
    """Train, and yield a record per pass over the data, including passes before a resume.

    A pass drops its last batch if a rank would get fewer than two images of it, because BatchNorm
    has no variance for one image; see `num_batches`. The next pass has another order, so it drops
    other images. In a smaller last batch, gradients are weighted by each rank's number of images.
    The first step is checked for finite values immediately, which waits for the GPU. Later steps
    are checked at the end of a pass and before a checkpoint.

    Args:
        learner: Learner that trains.
        loader: Loader of the training images.
        plan: Length, schedule and resolutions.
        timer: Measures the time of waiting for data; the learner adds the phases of its steps.
        clock: Times and counts, restored on a resume.
        checkpoints: Where to save, and to resume from; None neither saves nor resumes.
        hooks: Functions that are called at each step.

    Raises:
        Stopped: A stop was requested. A checkpoint is saved first, unless `checkpoints` is None.
        DivergedError: The loss or a weight is not finite. The message names the step, the learning
            rate and the last good checkpoint.
        UserError: The checkpoint was written by another number of ranks.
    """
    run = _Run(learner, loader, plan, timer, clock, checkpoints, hooks)
    run.resume()
    yield from run.records
    while run.step < run.num_steps:
        num_passes, first_step, last_step = len(run.records), run.first_step, run.last_step
        resolution = run.resolution()
        with loader.epoch(num_passes, resolution, start_batch=run.step - first_step) as batches:
            run.start_clock()
            while run.step < last_step:
                run.save_or_stop()
                with timer.span("data_wait"):
                    batch = batches.wait()
                with timer.span("augment"):
                    images, labels = batches.finish(batch)
                learner.set_rate(run.rate(run.step))
                learner.train_batch(images, labels)
                timer.end_step()
                run.end_step()
        run.end_pass(resolution)
        yield run.records[-1]


def num_batches(plan: LoaderPlan, num_samples: int) -> int:
    """Return the number of steps per pass.

    A last batch with fewer than two images per rank is dropped, and with `drop_last` any batch that
    is not full; but a pass has at least one step.
    """
    num_full, rest = divmod(num_samples, plan.batch_size)
    return max(1, num_full + int(rest >= 2 * plan.world_size and not plan.drop_last))


class _Run:
    """Position, records and checkpoints of a training loop."""

    def __init__(
        self,
        learner: Learner,
        loader: Loader,
        plan: TrainingPlan,
        timer: Timer,
        clock: Clock,
        checkpoints: Checkpoints | None,
        hooks: Hooks,
    ) -> None:
        self._learner, self._plan, self._loader_plan = learner, plan, loader.plan
        self._timer, self._clock, self._hooks = timer, clock, hooks
        self._checkpoints = checkpoints
        self._group = checkpoints.group if checkpoints else SINGLE_PROCESS
        self._flags = AsyncFlags(self._group)
        self._num_samples = loader.num_samples
        self._steps_per_pass = num_batches(loader.plan, loader.num_samples)
        self._steps_per_epoch = plan.steps_per_epoch or self._steps_per_pass
        self.num_steps = plan.num_steps or plan.num_epochs * self._steps_per_epoch
        self._num_epochs = -(-self.num_steps // self._steps_per_epoch)
        self.step = 0
        self.records: list[EpochRecord] = []
        self._pass_s = self._pass_checkpoint_s = 0.0  # seconds of the current pass
        self._step_at_start = 0  # value of `step` when the clock was started
        self._last_good: Path | None = None
        self._saved_at = self._started_at = self._shown_at = time.monotonic()
        self._saved_step: int | None = None

    @property
    def first_step(self) -> int:
        """Number of the first step of the current pass."""
        return sum(record["num_steps"] for record in self.records)

    @property
    def last_step(self) -> int:
        """Number of the first step after the current pass."""
        return min(self.num_steps, self.first_step + self._steps_per_pass)

    def resolution(self) -> int:
        """Return the side of the current pass's images in pixels."""
        at = self._plan.resolution_at
        epoch = self.first_step // self._steps_per_epoch
        return self._loader_plan.resolution if at is None else at(epoch)

    def rate(self, step: int) -> float:
        """Return the learning rate at a step, as a fraction of the peak."""
        return learning_rate(self._plan.schedule, 1.0, step, self.num_steps, self._steps_per_epoch)

    def start_clock(self) -> None:
        """Start measuring training time."""
        self._started_at, self._step_at_start = time.monotonic(), self.step

    def end_step(self) -> None:
        """Count a step, check the first one, and call the hooks. Raises DivergedError."""
        self.step += 1
        if self.step == 1:
            self._check_finite()
        self._hooks.after_step()
        now = time.monotonic()
        if now - self._shown_at > PROGRESS_EVERY_S:
            self._shown_at = now
            num_images = self._num_images(self.step) - self._num_images(self._step_at_start)
            self._hooks.progress(
                done=self.step,
                total=self.num_steps,
                img_per_s=num_images / max(1e-9, now - self._started_at),
                note=f"training, epoch {len(self.records) + 1}",
            )

    def _num_images(self, step: int) -> int:
        """Return the number of images of the current pass before a step, over all ranks."""
        num_steps = step - self.first_step
        return min(num_steps * self._loader_plan.batch_size, self._num_samples)

    def save_or_stop(self) -> None:
        """Save a checkpoint if one is due; raise Stopped if any rank was asked to stop.

        Raises DivergedError instead of saving values that are not finite.
        """
        self._act(*self._flags.reduce(self._hooks.stop_requested(), self._save_is_due()))

    def _act(self, stop: bool, save: bool) -> None:
        if stop or save:
            self._save()
        if stop:
            raise Stopped

    def _save_is_due(self) -> bool:
        return (
            self._checkpoints is not None
            and time.monotonic() - self._saved_at > self._checkpoints.every_s
        )

    def _save(self) -> None:
        """Save a checkpoint, or raise DivergedError if a value is not finite."""
        if self._checkpoints is None or self._saved_step == self.step:
            return
        self._check_finite()
        self._stop_clock()
        started = time.monotonic()
        learner = self._learner.state_dict()
        random_state = checkpoint.random_state(self._checkpoints.device)
        own = {key: value for key, value in learner.items() if key not in SHARED_STATE}
        state = {
            "learner": learner,
            "timer": self._timer.state_dict(),
            "clock": vars(self._clock),
            "records": self.records,
            "step": self.step,
            "pass_s": self._pass_s,
            "pass_checkpoint_s": self._pass_checkpoint_s,
            "random": random_state,
        }
        if self._group.world_size > 1:
            state["ranks"] = self._group.all_gather({"learner": own, "random": random_state})
        path = (
            str(checkpoint.save(self._checkpoints.folder, self.step, state))
            if self._group.is_main
            else ""
        )
        self._last_good = Path(self._group.broadcast(path))  # waits until the file is written
        self._saved_at, self._saved_step = time.monotonic(), self.step
        self._clock.checkpoint_s += self._saved_at - started
        self._pass_checkpoint_s += self._saved_at - started
        self.start_clock()

    def resume(self) -> None:
        """Continue from the last intact checkpoint, if there is one."""
        if self._checkpoints is None:
            return
        loaded = checkpoint.latest_for_rank(self._checkpoints)
        if (state := loaded.state) is not None:
            self._learner.load_state_dict(state["learner"])
            self._timer.load_state_dict(state["timer"])
            vars(self._clock).update(state["clock"])
            self.records, self.step = list(state["records"]), state["step"]
            self._pass_s, self._pass_checkpoint_s = state["pass_s"], state["pass_checkpoint_s"]
            checkpoint.set_random_state(state["random"], self._checkpoints.device)
            self._last_good, self._saved_step = loaded.path, self.step
            self._clock.num_restarts += 1
        self._clock.damaged_checkpoints += loaded.damaged

    def end_pass(self, resolution: int) -> None:
        """Record the pass that ends now, then save or stop. Raises DivergedError or Stopped."""
        self._check_finite()
        totals, timing, clock, first_step = (
            self._learner.totals(),
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
                "lr": self.rate(first_step) * self._learner.peak_lr,
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
        is_end = self.step == self.num_steps and clock.train_s > FINAL_CHECKPOINT_S
        is_due = self._save_is_due() or is_end
        self._act(*self._flags.reduce_now(self._hooks.stop_requested(), is_due))

    def _stop_clock(self) -> None:
        now = time.monotonic()
        self._clock.train_s += now - self._started_at
        self._pass_s += now - self._started_at
        self._started_at = now

    def _check_finite(self) -> None:
        """Raise DivergedError if the loss or a weight is not finite.

        If the first step is already not finite, the message does not blame the learning rate.
        """
        bad = self._learner.first_bad_step()
        if bad is None:
            return
        step = self.first_step + bad
        where = (
            f"Last good checkpoint: {self._last_good}."
            if self._last_good
            else "There is no earlier checkpoint."
        )
        raise DivergedError(
            f"The loss or a weight is not finite from step {step + 1} of {self.num_steps} on "
            f"(epoch {step // self._steps_per_epoch + 1} of {self._num_epochs}, learning rate "
            f"{self.rate(step) * self._learner.peak_lr:.3g} of a peak of "
            f"{self._learner.peak_lr:g}). {where}",
            NEVER_FINITE_HINT
            if step == 0
            else "Lower the learning rate, lengthen warmup_epochs, or use precision: float32.",
        )
