"""Fixed-feature transfer: the source's weights stay, a new linear head trains on augmented images.

The features of an image do not depend on the head, so the heads of a whole grid train at once on one forward pass of the
backbone; each is, bit for bit, what it would be alone. The published code lets the BatchNorm statistics of the backbone move
(`bn_stats: update`): they follow the images, which are the same ones in the same order for every point.
"""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.transfer.method import TRAINING, WEIGHT_DECAY, BnStats, Candidates, Setup

TAKES = TRAINING | WEIGHT_DECAY | {"bn_momentum"}
DEFAULT_BN_STATS: BnStats = "frozen"
NEEDS: str | None = "model"


def trains_together(setup: Setup) -> bool:
    return True


def candidates(setup: Setup, trials: Sequence[Trial]) -> Candidates:
    from harness.transfer.methods._shared_backbone import SharedBackbone

    shared = SharedBackbone(setup, trials)
    return Candidates(shared, shared.candidates)
