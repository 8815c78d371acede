"""The baseline of every transfer: the same architecture from random weights. Nothing of the source is looked at."""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.transfer.method import NETWORK, TRAINING, WEIGHT_DECAY, BnStats, Candidates, Setup

TAKES = TRAINING - {"bn_stats"} | WEIGHT_DECAY | NETWORK
DEFAULT_BN_STATS: BnStats = "update"
NEEDS: str | None = None


def trains_together(setup: Setup) -> bool:
    return False


def candidates(setup: Setup, trials: Sequence[Trial]) -> Candidates:
    from harness.transfer.methods import _network

    (trial,) = trials
    return _network.candidates(setup, trial, setup.scratch())
