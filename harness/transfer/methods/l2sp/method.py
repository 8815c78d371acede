"""Full-network transfer with an L2-SP penalty (Li, Grandvalet and Davoine 2018).

The penalty pulls weights toward their pretrained values. Plested, Shen and Gedeon 2021 add three
choices: the number of blocks to transfer, the groups of blocks to pull toward their pretrained
values instead of zero (`start_groups`), and the learning rate of each group.
"""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.train.l2sp import L2SPPenalty
from harness.transfer.method import TrainedModels, TransferSetup
from harness.transfer.methods import _network
from harness.transfer.methods.l2sp.settings import L2SPSettings


def candidates(setup: TransferSetup, trials: Sequence[Trial]) -> TrainedModels:
    """Prepare the training of the network for one trial (point of the grid)."""
    (trial,) = trials
    settings = trial.settings
    assert isinstance(settings, L2SPSettings)
    model = _network.transferred(setup, settings)
    parts = _network.parts(model, settings)
    groups = {"low": parts.low, "high": parts.high}
    kept = [
        parameter
        for name, blocks in groups.items()
        if settings.start_groups in ("both", name)
        for block in blocks
        for parameter in block.parameters(model.backbone)
    ]
    penalty = L2SPPenalty(model, kept, alpha=settings.alpha, beta=settings.beta)
    return _network.candidates(setup, trial, model, penalty=penalty)
