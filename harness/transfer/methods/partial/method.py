"""Partial transfer, which trains stage `train_from` and later stages with a new head.

Earlier stages keep their pretrained weights. Salman et al. 2020 call this a freeze level. Their
level 3, which trains everything after a ResNet's layer3, is `train_from: 4` here, because the stem
is stage 0. Unlike in their code, frozen stages also keep their BatchNorm statistics.
"""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.modeling.blocks import stages_of
from harness.transfer.method import TrainedModels, TransferSetup
from harness.transfer.methods import _network
from harness.transfer.methods.partial.settings import PartialSettings
from writers.errors import UserError
from writers.text_names import counted


def candidates(setup: TransferSetup, trials: Sequence[Trial]) -> TrainedModels:
    """Prepare the training of the network's last stages for one trial (point of the grid).

    Raises:
        UserError: the network has no stage `train_from`.
    """
    (trial,) = trials
    settings = trial.settings
    assert isinstance(settings, PartialSettings) and settings.train_from is not None
    model = setup.load()
    stages = stages_of(model.backbone, settings.resolution)
    if settings.train_from >= len(stages):
        raise UserError(
            f"train_from is {settings.train_from}; the network has "
            f"{counted(len(stages), 'stage')}, the last of them {len(stages) - 1}.",
            "To train the head alone, use the method fixed.",
        )
    blocks = [block for stage in stages[: settings.train_from] for block in stage]
    for block in blocks:
        for parameter in block.parameters(model.backbone):
            parameter.requires_grad_(False)
    frozen = [layer for block in blocks for layer in block.layers(model.backbone)]
    return _network.candidates(setup, trial, model, frozen=frozen)
