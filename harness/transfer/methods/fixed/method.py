"""Fixed-feature transfer, which trains a new linear head on augmented images.

The pretrained weights do not change, so an image's features do not depend on the head. The heads of
a whole grid therefore train at once, on one forward pass of the backbone and in one batched
product. Each head equals a head that is trained alone, to within the rounding of float32 sums
(`HeadStack`). With `bn_stats: update`, as in the code of Salman et al. 2020, the backbone's
BatchNorm statistics change. They depend on the images only, and all points of the grid get the same
images in the same order.
"""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.transfer.method import TrainedModels, TransferSetup
from harness.transfer.methods._shared_backbone import SharedBackbone


def candidates(setup: TransferSetup, trials: Sequence[Trial]) -> TrainedModels:
    """Prepare the training of a head for each trial (point of the grid)."""
    shared = SharedBackbone(setup, trials)
    return TrainedModels(shared, shared.candidates)
