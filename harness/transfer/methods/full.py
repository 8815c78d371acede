"""Full-network transfer: every weight trains, from the source's, under a new head. The points of the grid one after another."""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.transfer.method import (
    BLOCKS,
    NETWORK,
    TRAINING,
    WEIGHT_DECAY,
    BnStats,
    Candidates,
    Setup,
)

TAKES = TRAINING | WEIGHT_DECAY | BLOCKS | NETWORK
DEFAULT_BN_STATS: BnStats = "update"
NEEDS: str | None = "model"


def trains_together(setup: Setup) -> bool:
    return False


def candidates(setup: Setup, trials: Sequence[Trial]) -> Candidates:
    from harness.transfer.methods import _network

    (trial,) = trials
    return _network.candidates(setup, trial, _network.transferred(setup, trial.settings))
