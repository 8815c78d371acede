"""Full-network transfer, which trains a new head and all weights from the source's values."""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.transfer.method import TrainedModels, TransferSetup
from harness.transfer.methods import _network


def candidates(setup: TransferSetup, trials: Sequence[Trial]) -> TrainedModels:
    """Train the network of one trial."""
    (trial,) = trials
    return _network.candidates(setup, trial, _network.transferred(setup, trial.settings))
