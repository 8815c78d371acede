"""Full-network transfer, which trains a new head and all pretrained weights."""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.transfer.method import TrainedModels, TransferSetup
from harness.transfer.methods import _network


def candidates(setup: TransferSetup, trials: Sequence[Trial]) -> TrainedModels:
    """Prepare the training of the network for one trial (point of the grid)."""
    (trial,) = trials
    return _network.candidates(setup, trial, _network.transferred(setup, trial.settings))
