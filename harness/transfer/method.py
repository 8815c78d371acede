"""A transfer method: how points of a grid train, from a pretrained model. The catalogue is `harness/methods/`.

Each file there has what `Method` lists. Recipes are checked against its constants (`harness/config/method_options.py`), so those files
import torch only where they train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

from harness.config.transfer import TransferSettings
from writers import names

if TYPE_CHECKING:
    from harness.config.grid import Trial
    from harness.modeling.classifier import Classifier
    from harness.modeling.precision import Precision
    from harness.profiling.timer import Timer
    from harness.runner.context import Outcome, StageContext
    from harness.train.fit import Trainee

BnStats = Literal["frozen", "update"]

# What every method takes that trains by SGD; an axis of the grid counts as the setting of its name.
TRAINING = frozenset(
    {
        "method",
        "epochs",
        "steps",
        "per_class",
        "batch_size",
        "resolution",
        "eval_resolution",
        "eval_crop",
        "train_crop",
        "crop_scale",
        "crop_ratio",
        "horizontal_flip",
        "label_smoothing",
        "flip_tta",
        "optimizer",
        "precision",
        "lrs",
        "lr",
        "grid",
        "policy",
        "refit",
        "bn_stats",
        "per_target",
    }
)
WEIGHT_DECAY = frozenset({"weight_decay", "decay_ratio", "decay_norm_and_bias"})
NETWORK = frozenset({"bn_momentum", "accumulate"})  # what those take that train more than a head
# Where blocks of a network start, and how fast each learns.
BLOCKS = frozenset({"reinit_last", "num_low", "low_lr_ratio", "high_lr_ratio", "layer_decay"})


@dataclass(frozen=True)
class Setup:
    """What every trainee of a transfer starts from."""

    load: Callable[
        [], Classifier
    ]  # the pretrained model with a new head, on the device; equal at every call
    scratch: Callable[
        [], Classifier
    ]  # the same architecture with random weights, from the stage's seed; likewise
    settings: TransferSettings
    bn_stats: BnStats  # frozen: BatchNorm uses, and keeps, the source's statistics
    steps_per_epoch: int
    device: str
    precision: Precision
    timer: Timer


@dataclass(frozen=True)
class Candidates:
    """What trains, and what it leaves: a model for each trial, those that diverged left out. They may share parts, so look
    at one at a time."""

    trainee: Trainee
    models: Callable[[], Sequence[tuple[Trial, Classifier]]]


class Method(Protocol):
    """What a file of `harness/methods/` has."""

    TAKES: frozenset[str]  # settings, and axes of the grid, that have an effect
    DEFAULT_BN_STATS: BnStats
    NEEDS: (
        str | None
    )  # role of the stage that it starts from: "model", "features"; None: it starts from nothing

    def trains_together(self, setup: Setup) -> bool:
        """Whether trials of equal length train at once."""

    def candidates(self, setup: Setup, trials: Sequence[Trial]) -> Candidates:
        """For trials of equal length: several where they train together, else one."""


class FeatureMethod(Protocol):
    """What a file of `harness/methods/` has whose NEEDS is "features": the constants of `Method`, and the stage itself."""

    def run(self, context: StageContext) -> Outcome: ...


def find(name: str) -> Method:
    """The method of that name. Raises UserError, with the near names, for an unknown one."""
    return cast(Method, names.find("harness.transfer.methods", name, "method"))
