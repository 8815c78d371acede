"""Interface of transfer methods, which train the points of a grid from a pretrained model.

Each method is a package of `harness/transfer/methods/`. Its `settings.py` has the method's settings
and does not import torch; its `method.py` implements `Method` or `StageMethod`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from harness.config import methods
from harness.config.transfer import BnStats, TransferSettings
from writers import names

if TYPE_CHECKING:
    from harness.config.grid import Trial
    from harness.modeling.classifier import Classifier
    from harness.modeling.precision import Precision
    from harness.profiling.timer import Timer
    from harness.runner.context import Outcome, StageContext
    from harness.train.learner import Learner


@dataclass(frozen=True)
class TransferSetup:
    """Starting point of every trial of a transfer. A trial is one point of the method's grid.

    Attributes:
        load: returns the pretrained model with a new head, on the device. Every call returns the
            same weights.
        scratch: returns the same architecture with random weights from the stage's seed. Every call
            returns the same weights.
        settings: settings of the transfer, before the values of a trial are applied.
        bn_stats: "frozen": BatchNorm uses the pretrained statistics and does not change them.
            "update": BatchNorm normalizes by the batch and updates its statistics, as usual.
        steps_per_epoch: steps of a pass over the training images.
        device: device on which the method trains.
        precision: number format of forward and backward passes.
        timer: receives the time of each phase of a step.
    """

    load: Callable[[], Classifier]
    scratch: Callable[[], Classifier]
    settings: TransferSettings
    bn_stats: BnStats
    steps_per_epoch: int
    device: str
    precision: Precision
    timer: Timer


@dataclass(frozen=True)
class TrainedModels:
    """A learner, and the models that it trains.

    Attributes:
        learner: learner that trains all trials at once.
        models: returns a model for each trial that has not diverged. The models may share modules,
            so use only one at a time.
    """

    learner: Learner
    models: Callable[[], Sequence[tuple[Trial, Classifier]]]


class Method(Protocol):
    """Interface of `harness/transfer/methods/<name>/method.py` if the method trains a learner."""

    def candidates(self, setup: TransferSetup, trials: Sequence[Trial]) -> TrainedModels:
        """Prepare the training of trials of equal length.

        There is one trial, or several if `TRAINS_TOGETHER` of the method's settings is True.
        """


class StageMethod(Protocol):
    """Interface of `harness/transfer/methods/<name>/method.py` if it runs the whole stage."""

    def run(self, context: StageContext) -> Outcome:
        """Run the whole transfer stage."""


def find(name: str) -> Method:
    """Import a method that trains a learner.

    Raises:
        UserError: there is no such method. The message lists similar names.
    """
    return cast(Method, _import(name))


def find_stage_method(name: str) -> StageMethod:
    """Import a method that runs the whole stage.

    Raises:
        UserError: there is no such method. The message lists similar names.
    """
    return cast(StageMethod, _import(name))


def _import(name: str) -> ModuleType:
    methods.settings_model(name)  # raises UserError for an unknown name
    return importlib.import_module(f"{methods.PACKAGE}.{names.normalize(name)}.method")
