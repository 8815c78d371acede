"""Partial transfer: stage `train_from` and all behind it trains, what is before it stays as the source left it.

Salman et al. 2020 call it a freeze level: theirs of 3 (all behind a ResNet's layer3 trains) is `train_from: 4` here, where
the stem is stage 0. Unlike theirs, frozen parts keep their BatchNorm statistics.
"""

from collections.abc import Sequence

from harness.config.grid import Trial
from harness.transfer.method import NETWORK, TRAINING, WEIGHT_DECAY, BnStats, Candidates, Setup
from writers.errors import UserError

TAKES = TRAINING | WEIGHT_DECAY | NETWORK | {"train_from"}
DEFAULT_BN_STATS: BnStats = "update"
NEEDS: str | None = "model"


def trains_together(setup: Setup) -> bool:
    return False


def candidates(setup: Setup, trials: Sequence[Trial]) -> Candidates:
    """Raises UserError where the network has no such stage."""
    from harness.modeling.blocks import stages_of
    from harness.transfer.methods import _network

    (trial,) = trials
    first = trial.settings.train_from
    assert first is not None
    model = setup.load()
    stages = stages_of(model.backbone, trial.settings.resolution)
    if first >= len(stages):
        raise UserError(
            f"train_from is {first}; the network has {len(stages)} stages, the last of them {len(stages) - 1}.",
            "To train the head alone, use the method fixed.",
        )
    blocks = [block for stage in stages[:first] for block in stage]
    for parameter in (
        parameter for block in blocks for parameter in block.parameters(model.backbone)
    ):
        parameter.requires_grad_(False)
    frozen = [layer for block in blocks for layer in block.layers(model.backbone)]
    return _network.candidates(setup, trial, model, frozen=frozen)
