"""Search for hyper-parameters: train the points of a method's grid and keep the best model on val.

Each learner starts from the same random state, so a point has the same result as if it were trained
alone: bit for bit, or, if several heads train at once, to within the rounding of float32 sums. An
interrupted search resumes with the learner that was training. The test split is not used here.
"""

import copy
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import grid
from harness.config.base import Metric
from harness.config.grid import Point, Trial
from harness.config.transfer import TransferSettings
from harness.matrix.scores import Scores
from harness.modeling.classifier import Classifier
from harness.modeling.precision import Precision
from harness.profiling.timer import Timer
from harness.runner.context import StageContext, Stopped
from harness.system.out_of_memory import is_out_of_memory
from harness.train import checkpoint
from harness.train.autotune import noise_batch
from harness.train.checkpoint import Checkpoints
from harness.train.divergence import DivergedError
from harness.train.fit import FINAL_CHECKPOINT_S, Clock, Hooks, TrainingPlan, fit, num_batches
from harness.train.learner import Learner
from harness.train.micro_batching import choose_micro_batches, out_of_memory
from harness.train.step import TrainStep
from harness.transfer.method import Method, TrainedModels, TransferSetup
from harness.transfer.methods._network_settings import NetworkSettings
from harness.transfer.stage_files import CHECKPOINTS
from loaders.backend import Loader
from writers.errors import UserError

EvalFn = Callable[[Classifier, float], Scores]  # model, fraction of a center crop -> scores on val


@dataclass(frozen=True)
class Best:
    """The best model so far.

    Attributes:
        trial: The point of the grid.
        crop: Side of the center crop in evaluation, as a fraction of the image's shorter side.
        model: The trained model.
        val: The model's scores on val.
    """

    trial: Trial
    crop: float
    model: Classifier
    val: Scores

    def is_better_than(self, other: "Best | None", metric: Metric) -> bool:
        """Compare scores on val; ties go to the lower learning rate, then to the earlier point."""

        def rank(best: Best) -> tuple[float, float, int]:
            return best.val[metric], -best.trial.lr, -best.trial.number

        return other is None or rank(self) > rank(other)


class Search:
    """Hyper-parameter search of one transfer stage.

    Attributes:
        setup: Starting point of every trial (point of the grid).
        clocks: Times and counts of each learner.
        eval_s: Seconds of evaluation on val.
        num_parts: Number of micro-batches per batch of the last learner.
    """

    def __init__(
        self,
        context: StageContext,
        method: Method,
        setup: TransferSetup,
        loader: Loader,
        evaluate: EvalFn,
        *,
        metric: Metric,
        num_classes: int,
    ) -> None:
        """Prepare the search.

        Args:
            context: Context of the stage.
            method: Transfer method.
            setup: Starting point of every trial.
            loader: Loader of the training images.
            evaluate: Returns a model's scores on val, for a center crop of the given fraction.
            metric: Score by which models are compared.
            num_classes: Number of classes of the target.
        """
        self._context, self._method = context, method
        self.setup = self._setup = setup  # `refit` changes steps_per_epoch of `_setup`
        self._loader, self._evaluate = loader, evaluate
        self._metric, self._num_classes = metric, num_classes
        self.clocks: list[Clock] = []
        self.eval_s = 0.0
        self.num_parts = 1
        self._folder = context.folder / CHECKPOINTS
        # (number of the trial, fraction of its full length) -> crop -> scores on val
        self._tried: dict[tuple[int, Fraction], dict[float, Scores]] = {}
        self._best: Best | None = None
        self._failure: UserError = DivergedError(
            "Training diverged at every point of the grid.", "Add lower rates to `lrs`."
        )
        self._last: Learner | None = None
        self._num_learners = 0  # number of learners started, including before a resume
        self._unsaved_s = 0.0

    def run(self) -> Best:
        """Train all points of the grid and return the best.

        Raises:
            Stopped: a stop was requested; a checkpoint is saved first.
            DivergedError: every point diverged, in training or on val.
            UserError: a batch does not fit in memory.
        """
        settings = self._setup.settings
        self._resume()
        num_done, survivors = self._num_learners, grid.trials(settings)
        self._num_learners = 0
        for share in grid.shares(settings):
            for group in self._groups(survivors):
                self._num_learners += 1
                if self._num_learners > num_done:
                    self._train_group(group, share)
            if share < 1:
                survivors = self._promoted(survivors, share)
        if self._best is None:
            raise self._failure
        return self._best

    def refit(self, best: Best, loader: Loader) -> Classifier:
        """Train the best point again, from its initial weights, on the images of another loader.

        Raises:
            Stopped: a stop was requested; a checkpoint is saved first.
            DivergedError: training diverged.
            UserError: a batch does not fit in memory.
        """
        self._save()
        self._num_learners += 1
        self._setup = replace(
            self._setup, steps_per_epoch=num_batches(loader.plan, loader.num_samples)
        )
        models = self._fit([best.trial], Fraction(1), loader).models()
        if not models:
            raise DivergedError(
                "The chosen point diverged when it was trained again on train and val.",
                "Remove `refit`, or the highest of `lrs`.",
            )
        return models[0][1]

    @property
    def last_learner(self) -> Learner | None:
        """The learner that trained last, to measure its speed; None if it ran before a resume."""
        return self._last

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield a record of each point and crop.

        A record has the values of the point, and `val`: its scores, or None if the point diverged.
        With successive halving, it also has `share`: the fraction of its full length for which the
        point trained.
        """
        settings = self._setup.settings
        halving = len(grid.shares(settings)) > 1
        for trial in grid.trials(settings):
            share = max(share for number, share in self._tried if number == trial.number)
            val = self._tried[trial.number, share]
            for crop in grid.crops(settings):
                yield {
                    **self.point_of(trial, crop),
                    "val": val.get(crop),
                    **({"share": float(share)} if halving else {}),
                }

    def point_of(self, trial: Trial, crop: float) -> Point:
        """Return the values of a trial, including the crop if it is an axis of the grid."""
        return {
            **trial.point,
            **({"eval_crop": crop} if self._setup.settings.grid.eval_crop else {}),
        }

    def _groups(self, trials: Sequence[Trial]) -> Iterator[list[Trial]]:
        """Yield groups of trials that train together."""
        for group in grid.by_length(trials):
            yield from (
                [group] if self._setup.settings.TRAINS_TOGETHER else [[trial] for trial in group]
            )

    def _train_group(self, group: list[Trial], share: Fraction) -> None:
        """Train a group for the fraction `share` of its full length; evaluate each trial on val."""
        for trial in group:
            self._tried[trial.number, share] = {}
        try:
            trained = self._fit(group, share, self._loader)
        except DivergedError as error:
            self._failure = error
        except Stopped:
            self._num_learners -= 1
            self._save()
            raise
        else:
            started = time.monotonic()
            self._context.progress(note="evaluation on val")
            for trial, model in trained.models():
                self._evaluate_trial(trial, model, share)
            self.eval_s += time.monotonic() - started
        self._unsaved_s += self.clocks[-1].train_s
        if self._unsaved_s > FINAL_CHECKPOINT_S:
            self._save()

    def _evaluate_trial(self, trial: Trial, model: Classifier, share: Fraction) -> None:
        for crop in grid.crops(self._setup.settings):
            try:
                scores = self._evaluate(model, crop)
            except DivergedError as error:
                self._failure = error
                continue
            self._tried[trial.number, share][crop] = scores
            candidate = Best(trial, crop, model, scores)
            if share == 1 and candidate.is_better_than(self._best, self._metric):
                self._best = replace(candidate, model=copy.deepcopy(model))

    def _promoted(self, trials: Sequence[Trial], share: Fraction) -> list[Trial]:
        """Return the best trials of a rung of successive halving, in the order of the grid."""

        def score(trial: Trial) -> float:
            return max(scores[self._metric] for scores in self._tried[trial.number, share].values())

        finite = [trial for trial in trials if self._tried[trial.number, share]]
        best_first = sorted(finite, key=lambda trial: (-score(trial), trial.lr, trial.number))
        num_promoted = grid.num_promoted(self._setup.settings, len(trials))
        promoted = {trial.number for trial in best_first[:num_promoted]}
        return [trial for trial in trials if trial.number in promoted]

    def _fit(self, group: list[Trial], share: Fraction, loader: Loader) -> TrainedModels:
        context, settings = self._context, group[0].settings
        accumulate = settings.accumulate if isinstance(settings, NetworkSettings) else None
        self._last = None  # free the memory of the previous learner
        torch.manual_seed(context.config["seed"])  # dropout uses the global generator
        self._setup.timer.clear()
        candidates = self._method.candidates(self._setup, group)
        self._last, clock = candidates.learner, Clock()
        self.clocks.append(clock)
        steps_per_epoch = max(1, round(share * num_batches(loader.plan, loader.num_samples)))
        num_steps = (
            max(1, round(share * settings.steps)) if isinstance(settings.steps, int) else None
        )
        checkpoints = Checkpoints(
            self._learner_folder(self._num_learners), context.device, context.checkpoint_every_s
        )
        if isinstance(candidates.learner, TrainStep):
            self.num_parts = choose_micro_batches(
                candidates.learner, accumulate or 1, self._noise(settings), context.folder
            )
        exhausted = False
        try:
            for _ in fit(
                candidates.learner,
                loader,
                TrainingPlan(settings.optimizer, settings.epochs, steps_per_epoch, num_steps),
                timer=self._setup.timer,
                clock=clock,
                checkpoints=checkpoints,
                hooks=Hooks(context.stop_requested, context.progress),
            ):
                pass
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            exhausted = True
        # Outside the except block: the traceback would keep the step's tensors alive.
        if exhausted:
            raise out_of_memory(
                candidates.learner,
                self._noise(settings),
                context.folder,
                accumulate,
            )
        return candidates

    def _noise(self, settings: TransferSettings) -> tuple[Tensor, Tensor]:
        size = min(settings.batch_size, self._loader.num_samples)
        return noise_batch(size, settings.resolution, self._num_classes, self._context.device)

    def _learner_folder(self, number: int) -> Path:
        return self._folder / str(number)

    def _save(self) -> None:
        """Save the results so far, and remove the checkpoints of finished learners."""
        best = self._best and {
            "number": self._best.trial.number,
            "crop": self._best.crop,
            "val": self._best.val,
            "weights": self._best.model.state_dict(),
        }
        tried = [
            [number, share.numerator, share.denominator, val]
            for (number, share), val in self._tried.items()
        ]
        clocks = [vars(clock) for clock in self.clocks[: self._num_learners]]
        checkpoint.save(
            self._folder,
            self._num_learners,
            {
                "tried": tried,
                "best": best,
                "clocks": clocks,
                "eval_s": self.eval_s,
                "failure": [self._failure.message, self._failure.hint],
            },
        )
        self._unsaved_s = 0.0
        for number in range(1, self._num_learners + 1):
            shutil.rmtree(self._learner_folder(number), ignore_errors=True)

    def _resume(self) -> None:
        loaded = checkpoint.latest(self._folder)
        if loaded.path is None or (state := loaded.state) is None:
            return
        self._num_learners = int(loaded.path.stem)
        self._tried = {
            (number, Fraction(numerator, denominator)): val
            for number, numerator, denominator, val in state["tried"]
        }
        self.clocks, self.eval_s = [Clock(**values) for values in state["clocks"]], state["eval_s"]
        self._failure = DivergedError(*state["failure"])
        if (best := state["best"]) is not None:
            model = self._setup.load()
            model.load_state_dict(best["weights"])
            trial = next(
                trial
                for trial in grid.trials(self._setup.settings)
                if trial.number == best["number"]
            )
            self._best = Best(trial, best["crop"], model, best["val"])
        for clock in self.clocks[:1]:
            clock.damaged_checkpoints += loaded.damaged


def open_search(
    context: StageContext,
    method: Method,
    settings: TransferSettings,
    loader: Loader,
    evaluate: EvalFn,
    *,
    load: Callable[[], Classifier],
    scratch: Callable[[], Classifier],
    precision: Precision,
    timer: Timer,
    num_classes: int,
) -> Search:
    """Prepare the search of a transfer stage. The stage's config names the metric.

    The arguments are those of `Search`, and fields of `TransferSetup`.
    """
    setup = TransferSetup(
        load,
        scratch,
        settings,
        settings.bn_stats,
        num_batches(loader.plan, loader.num_samples),
        context.device,
        precision,
        timer,
    )
    return Search(
        context,
        method,
        setup,
        loader,
        evaluate,
        metric=context.config["metric"],
        num_classes=num_classes,
    )
