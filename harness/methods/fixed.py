"""Fixed-feature transfer: the source's weights stay, a new linear head trains on augmented images.

With frozen BatchNorm statistics the features of an image do not depend on the head, so the heads of a whole grid train at
once on one forward pass of the backbone; each is, bit for bit, what it would be alone. The published code lets the statistics
of the frozen backbone move (`bn_stats: update`); then each point has a backbone of its own.
"""

from collections.abc import Sequence

from harness.grid import Trial
from harness.method import TRAINING, WEIGHT_DECAY, BnStats, Candidates, Setup

TAKES = TRAINING | WEIGHT_DECAY | {"bn_momentum"}
DEFAULT_BN_STATS: BnStats = "frozen"
NEEDS: str | None = "model"


def trains_together(setup: Setup) -> bool:
    return setup.bn_stats == "frozen"


def candidates(setup: Setup, trials: Sequence[Trial]) -> Candidates:
    from harness.methods import _network
    from harness.methods._shared_backbone import SharedBackbone

    if setup.bn_stats == "frozen":
        shared = SharedBackbone(setup, trials)
        return Candidates(shared, shared.candidates)
    trial, = trials
    model = setup.load()
    model.backbone.requires_grad_(False)
    return _network.candidates(setup, trial, model)
