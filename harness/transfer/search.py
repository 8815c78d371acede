"""Train the points of a method's grid one after another, and keep the model that is best on val.

Each learner starts from the same random numbers, so a point gives, bit for bit, what it gives
alone, and a search that was interrupted continues with the learner that it was at. Test is not seen
here.
"""

import copy
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.config import grid
from harness.config.base import Metric
from harness.config.grid import Point, Trial
from harness.config.transfer import TransferSettings
from harness.matrix.scores import Scores
from harness.modeling.classifier import Classifier
from harness.runner.context import StageContext, Stopped
from harness.system.out_of_memory import is_out_of_memory
from harness.train import checkpoint
from harness.train.autotune import noise_batch
from harness.train.divergence import DivergedError
from harness.train.fit import FINAL_CHECKPOINT_S, Checkpoints, Clock, fit, num_batches
from harness.train.learner import Learner
from harness.train.micro_batching import choose_micro_batches, out_of_memory
from harness.train.step import TrainStep
from harness.transfer.method import Method, TrainedModels, TransferSetup
from harness.transfer.methods._network_settings import NetworkSettings
from loaders.backend import Loader
from writers.errors import UserError

if TYPE_CHECKING:
    from harness.stages.transfer.record import Selection

Judge = Callable[[Classifier, float], Scores]  # a model and its centre crop -> scores on val


@dataclass(frozen=True)
class Best:
    trial: Trial
    crop: float
    model: Classifier
    val: Scores

    def beats(self, other: "Best | None", metric: Metric) -> bool:
        """Higher on val; of equals the smaller rate, then the earlier in the grid."""

        def rank(best: Best) -> tuple[float, float, int]:
            return best.val[metric], -best.trial.lr, -best.trial.number

        return other is None or rank(self) > rank(other)


class Search:
    """One stage's search.

    `run` gives the best; `entries` tells of every point, `clocks` how long each learner took.
    """

    def __init__(
        self,
        context: StageContext,
        method: Method,
        setup: TransferSetup,
        loader: Loader,
        judge: Judge,
        *,
        metric: Metric,
        num_classes: int,
    ) -> None:
        self._context, self._method, self._setup, self._loader, self._judge = (
            context,
            method,
            setup,
            loader,
            judge,
        )
        self._metric, self._num_classes = metric, num_classes
        self.clocks: list[Clock] = []
        self.eval_s = 0.0
        self.num_parts = 1  # of a batch, for the last learner
        self._folder = context.folder / "checkpoints"
        self._tried: dict[
            tuple[int, Fraction], dict[float, Scores]
        ] = {}  # trial, share of training -> crop -> val
        self._best: Best | None = None
        self._failure: UserError = DivergedError(
            "No point of the grid leaves finite weights.", "Add lower rates to `lrs`."
        )
        self._last: Learner | None = None
        self._num_turns = 0  # learners begun, those of before a resume included
        self._unsaved_s = 0.0

    def run(self) -> Best:
        """Raises Stopped, behind a checkpoint; DivergedError where no point leaves finite weights."""
        settings = self._setup.settings
        self._resume()
        num_done, alive = self._num_turns, grid.trials(settings)
        self._num_turns = 0
        for share in grid.shares(settings):
            for turn in self._turns(alive):
                self._num_turns += 1
                if self._num_turns > num_done:
                    self._take(turn, share)
            if share < 1:
                alive = self._promoted(alive, share)
        if self._best is None:
            raise self._failure
        return self._best

    def refit(self, best: Best, loader: Loader) -> Classifier:
        """The best point trained once more, on that loader's images.

        Raises DivergedError and Stopped.
        """
        self._save()
        self._num_turns += 1
        self._setup = replace(
            self._setup, steps_per_epoch=num_batches(loader.plan, loader.num_samples)
        )
        found = self._fit([best.trial], Fraction(1), loader).models()
        if not found:
            raise DivergedError(
                "The chosen point diverged when it was trained again on train and val.",
                "Leave `refit` out, or the highest of `lrs`.",
            )
        return found[0][1]

    @property
    def last_learner(self) -> Learner | None:
        """What trained last, to be used up; None where all of that was before a resume."""
        return self._last

    def entries(self) -> Iterator[dict[str, Any]]:
        """For each point and crop its values, its scores on val (None.

        It diverged) and, where only some train in full, the share of training that it had.
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
        return {
            **trial.point,
            **({"eval_crop": crop} if self._setup.settings.grid.eval_crop else {}),
        }

    def _turns(self, alive: Sequence[Trial]) -> Iterator[list[Trial]]:
        """Trials that train together."""
        for group in grid.by_length(alive):
            yield from (
                [group] if self._setup.settings.TRAINS_TOGETHER else [[trial] for trial in group]
            )

    def _take(self, turn: list[Trial], share: Fraction) -> None:
        """Train the trials of a turn, and look at each on val."""
        for trial in turn:
            self._tried[trial.number, share] = {}
        try:
            candidates = self._fit(turn, share, self._loader)
        except DivergedError as error:
            self._failure = error
        except Stopped:
            self._num_turns -= 1
            self._save()
            raise
        else:
            started = time.monotonic()
            for trial, model in candidates.models():
                self._look_at(trial, model, share)
            self.eval_s += time.monotonic() - started
        self._unsaved_s += self.clocks[-1].train_s
        if self._unsaved_s > FINAL_CHECKPOINT_S:
            self._save()

    def _look_at(self, trial: Trial, model: Classifier, share: Fraction) -> None:
        for crop in grid.crops(self._setup.settings):
            try:
                scores = self._judge(model, crop)
            except DivergedError as error:
                self._failure = error
                continue
            self._tried[trial.number, share][crop] = scores
            found = Best(trial, crop, model, scores)
            if share == 1 and found.beats(self._best, self._metric):
                self._best = replace(found, model=copy.deepcopy(model))

    def _promoted(self, alive: Sequence[Trial], share: Fraction) -> list[Trial]:
        """The best of a rung on val, in the order of the grid."""

        def score(trial: Trial) -> float:
            return max(scores[self._metric] for scores in self._tried[trial.number, share].values())

        finite = [trial for trial in alive if self._tried[trial.number, share]]
        first = sorted(finite, key=lambda trial: (-score(trial), trial.lr, trial.number))
        kept = {
            trial.number for trial in first[: grid.num_promoted(self._setup.settings, len(alive))]
        }
        return [trial for trial in alive if trial.number in kept]

    def _fit(self, turn: list[Trial], share: Fraction, loader: Loader) -> TrainedModels:
        context, settings = self._context, turn[0].settings
        accumulate = settings.accumulate if isinstance(settings, NetworkSettings) else None
        self._last = None  # its memory is wanted
        torch.manual_seed(
            context.config["seed"]
        )  # for what draws from the global generator, such as dropout
        self._setup.timer.clear()
        candidates = self._method.candidates(self._setup, turn)
        self._last, clock = candidates.learner, Clock()
        self.clocks.append(clock)
        steps_per_epoch = max(1, round(share * num_batches(loader.plan, loader.num_samples)))
        num_steps = (
            max(1, round(share * settings.steps)) if isinstance(settings.steps, int) else None
        )
        checkpoints = Checkpoints(
            self._turn_folder(self._num_turns), context.device, context.checkpoint_every_s
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
                settings.optimizer,
                num_epochs=settings.epochs,
                steps_per_epoch=steps_per_epoch,
                num_steps=num_steps,
                timer=self._setup.timer,
                clock=clock,
                checkpoints=checkpoints,
                stop_requested=context.stop_requested,
                progress=context.progress,
            ):
                pass
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            exhausted = True
        if (
            exhausted
        ):  # behind the handler, where the error no longer holds on to the memory of the step
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

    def _turn_folder(self, number: int) -> Path:
        return self._folder / str(number)

    def _save(self) -> None:
        """What the turns so far have found; their own checkpoints are not needed any more."""
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
        clocks = [vars(clock) for clock in self.clocks[: self._num_turns]]
        checkpoint.save(
            self._folder,
            self._num_turns,
            {
                "tried": tried,
                "best": best,
                "clocks": clocks,
                "eval_s": self.eval_s,
                "failure": [self._failure.message, self._failure.hint],
            },
        )
        self._unsaved_s = 0.0
        for number in range(1, self._num_turns + 1):
            shutil.rmtree(self._turn_folder(number), ignore_errors=True)

    def _resume(self) -> None:
        found = checkpoint.latest(self._folder)
        if found.path is None or (state := found.state) is None:
            return
        self._num_turns = int(found.path.stem)
        self._tried = {
            (number, Fraction(over, under)): val for number, over, under, val in state["tried"]
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
            clock.damaged_checkpoints += found.damaged


def describe_selection(settings: TransferSettings) -> "Selection":
    """What a result tells of how its number was chosen."""
    policy = settings.policy
    return {
        "policy": policy if isinstance(policy, str) else policy.model_dump(mode="json"),
        "selected_on": "val",
        "num_configs": grid.num_configs(settings),
        "refit": settings.refit,
    }
