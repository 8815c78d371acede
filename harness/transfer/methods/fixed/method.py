"""Fixed-feature transfer: the source's weights stay, a new linear head trains on augmented images.

An image's features do not depend on the head, so the heads of a whole grid train at once, on one
forward pass of the backbone and in one batched product. Each head equals the head that would train
alone, to within the rounding of float32 sums (`HeadStack`). With `bn_stats: update`, as in the
published code, the BatchNorm statistics of the backbone change. They depend on the images only, and
every point of the grid has the same images in the same order.
"""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.transfer.method import TrainedModels, TransferSetup
from harness.transfer.methods._shared_backbone import SharedBackbone


def candidates(setup: TransferSetup, trials: Sequence[Trial]) -> TrainedModels:
    """Train a head for each trial."""
    shared = SharedBackbone(setup, trials)
    return TrainedModels(shared, shared.candidates)
