"""A transfer method: from a pretrained model to trainees, one after another, that together try the whole grid of rates.

The catalogue is `harness/methods/`; each file there has DEFAULT_BN_STATS and `trainees(setup)`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from torch import nn

from harness.model import Classifier
from harness.timer import Timer
from harness.train.fit import Trainee
from harness.train.precision import Precision
from harness.transfer_settings import TransferSettings
from writers import names

BnStats = Literal["frozen", "update"]


@dataclass(frozen=True)
class Setup:
    """What every trainee of a transfer starts from."""

    load: Callable[[], Classifier]      # the pretrained model with a new head, on the device; equal at every call
    settings: TransferSettings
    bn_stats: BnStats                   # frozen: BatchNorm uses, and keeps, the source's statistics
    device: str
    precision: Precision
    timer: Timer


class Candidates(Trainee, Protocol):
    """A trainee that tries one or more learning rates."""

    def candidates(self) -> dict[float, Classifier]:
        """Learning rate -> the model trained with it. Models may share parts: look at one at a time."""


class Method(Protocol):
    """What a file of `harness/methods/` has."""

    DEFAULT_BN_STATS: BnStats

    def trainees(self, setup: Setup) -> Iterator[Candidates]:
        """Trainees that cover `setup.settings.lrs`, each made when it is asked for."""


def find(name: str) -> Method:
    """The method of that name. Raises UserError, with the near names, for an unknown one."""
    return cast(Method, names.find("harness.methods", name, "method"))


def set_train_mode(model: Classifier, bn_stats: BnStats) -> None:
    """Training mode for all, but BatchNorm in evaluation mode where its statistics are frozen."""
    model.train()
    if bn_stats == "frozen":
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
