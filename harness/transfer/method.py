"""Contract of transfer methods: how points of a grid train, starting from a pretrained model.

Each method is a package of `harness/transfer/methods/`: `settings.py` has the method's settings and
imports no torch; `method.py` implements `Method` or `StageMethod`.
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
    """Starting point of every trial of a transfer.

    Attributes:
        load: returns the pretrained model with a new head, on the device; equal at every call.
        scratch: returns the same architecture with random weights from the stage's seed; equal at
            every call.
        bn_stats: frozen: BatchNorm uses, and keeps, the source's statistics.
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
        learner: trains all trials at once.
        models: returns a model for each trial that has not diverged. Models may share modules, so
            use one at a time.
    """

    learner: Learner
    models: Callable[[], Sequence[tuple[Trial, Classifier]]]


class Method(Protocol):
    """Interface of `harness/transfer/methods/<name>/method.py`, if the method trains."""

    def candidates(self, setup: TransferSetup, trials: Sequence[Trial]) -> TrainedModels:
        """Prepare trials of equal length: several if `TRAINS_TOGETHER`, otherwise one."""


class StageMethod(Protocol):
    """Interface of `harness/transfer/methods/<name>/method.py`, if it runs the whole stage."""

    def run(self, context: StageContext) -> Outcome:
        """Run the whole transfer stage."""


def find(name: str) -> Method:
    """Import a method that trains.

    Raises:
        UserError: there is no such method; names similar ones.
    """
    return cast(Method, _import(name))


def find_stage_method(name: str) -> StageMethod:
    """Import a method that runs the whole stage.

    Raises:
        UserError: there is no such method; names similar ones.
    """
    return cast(StageMethod, _import(name))


def _import(name: str) -> ModuleType:
    methods.settings_model(name)  # raises UserError for an unknown name
    return importlib.import_module(f"{methods.PACKAGE}.{names.normalize(name)}.method")
