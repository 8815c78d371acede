"""Full-network transfer with L2-SP: weights are pulled towards where they started (Li, Grandvalet and Davoine 2018).

With it the choices of Plested, Shen and Gedeon 2021: how many blocks are transferred at all, which of those are pulled towards
their start (`start_groups`) and which towards zero, and how fast each group learns.
"""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.transfer.method import BLOCKS, NETWORK, TRAINING, BnStats, Candidates, Setup

TAKES = TRAINING | BLOCKS | NETWORK | {"alpha", "beta", "start_groups"}
DEFAULT_BN_STATS: BnStats = "update"
NEEDS: str | None = "model"


def trains_together(setup: Setup) -> bool:
    return False


def candidates(setup: Setup, trials: Sequence[Trial]) -> Candidates:
    from harness.train.l2sp import Pull
    from harness.transfer.methods import _network

    (trial,) = trials
    settings = trial.settings
    model = _network.transferred(setup, settings)
    parts = _network.parts(model, settings)
    groups = {"low": parts.low, "high": parts.high}
    kept = [
        parameter
        for name in settings.start_groups
        for block in groups[name]
        for parameter in block.parameters(model.backbone)
    ]
    return _network.candidates(
        setup, trial, model, pull=Pull(model, kept, alpha=settings.alpha, beta=settings.beta)
    )
