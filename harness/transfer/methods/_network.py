"""Prepare networks for methods that train them: initial weights, learning rates and BatchNorm."""

from collections.abc import Sequence

import torch
from torch import nn

from harness.config.grid import Trial
from harness.config.transfer import BnStats, TransferSettings
from harness.modeling.blocks import Block, blocks_of
from harness.modeling.classifier import Classifier
from harness.modeling.module_modes import BatchNorm
from harness.train.l2sp import NO_PENALTY, L2SPPenalty, NoPenalty
from harness.train.optimizer import make_sgd
from harness.train.step import StepConfig, make_step
from harness.transfer.method import TrainedModels, TransferSetup
from harness.transfer.methods._network_settings import BlockSettings, NetworkSettings
from writers.errors import UserError

KORNBLITH_STEPS, TORCH_MOMENTUM = 10, 0.1


def candidates(
    setup: TransferSetup,
    trial: Trial,
    model: Classifier,
    *,
    frozen: Sequence[nn.Module] = (),
    penalty: L2SPPenalty | NoPenalty = NO_PENALTY,
) -> TrainedModels:
    """Prepare the training of the model's weights that require gradients.

    Args:
        setup: data, device and pretrained model, shared by all points of the grid.
        trial: one point of the grid of hyperparameters.
        model: network on the device.
        frozen: modules that stay in evaluation mode, so their BatchNorm statistics do not change.
        penalty: penalty on the weights, in place of weight decay.

    Returns:
        The training step, and a function that returns the trial and its trained model.
    """
    settings = trial.settings
    assert isinstance(settings, NetworkSettings)
    set_bn_momentum(model, settings.bn_momentum, setup.steps_per_epoch)
    train_mode(model, setup.bn_stats, frozen)
    step = make_step(
        model,
        make_sgd(model, settings.optimizer, trial.lr, lr_ratios(model, settings)),
        StepConfig(
            peak_lr=trial.lr,
            device=setup.device,
            precision=setup.precision,
            label_smoothing=settings.label_smoothing,
        ),
        setup.timer,
        penalty=penalty,
    )
    return TrainedModels(step, lambda: [(trial, model)])


def transferred(setup: TransferSetup, settings: TransferSettings) -> Classifier:
    """Load the pretrained model, with random weights in the head and the last blocks.

    `settings.reinit_last` is the number of these blocks.
    """
    assert isinstance(settings, BlockSettings)
    model = setup.load()
    if settings.reinit_last:
        random = setup.scratch().backbone.state_dict()
        new = [name for block in parts(model, settings).new for name in block.names]
        state = model.backbone.state_dict()
        with torch.no_grad():
            for name in new:
                state[name].copy_(random[name])
    return model


class Parts:
    """Blocks of a network, grouped by initial weights and learning rate.

    Attributes:
        low: transferred blocks that train with the low learning rate.
        high: the other transferred blocks.
        new: blocks that start from random weights.
    """

    def __init__(self, blocks: Sequence[Block], num_low: int, num_new: int) -> None:
        if num_low + num_new > len(blocks):
            raise UserError(
                f"num_low is {num_low} and reinit_last {num_new}; the network has {len(blocks)} "
                "blocks.",
                f"Lower one of them: their sum must be at most {len(blocks)}.",
            )
        first_new = len(blocks) - num_new
        self.low, self.high, self.new = (
            list(blocks[:num_low]),
            list(blocks[num_low:first_new]),
            list(blocks[first_new:]),
        )


def parts(model: Classifier, settings: BlockSettings) -> Parts:
    """Group the blocks of a model.

    Raises:
        UserError: the settings need more blocks than the network has.
    """
    return Parts(blocks_of(model.backbone), settings.num_low, settings.reinit_last)


def lr_ratios(model: Classifier, settings: TransferSettings) -> dict[nn.Parameter, float]:
    """Map parameters to their learning rate divided by the head's.

    The ratio of the n-th block from the end is the ratio of its group (1 for new blocks) times
    `layer_decay`**n. Parameters with ratio 1 may be missing.
    """
    if not isinstance(settings, BlockSettings):
        return {}
    if (settings.num_low, settings.high_lr_ratio, settings.layer_decay) == (0, 1.0, 1.0):
        return {}
    ratios, groups = {}, parts(model, settings)
    blocks = [
        (block, ratio)
        for group, ratio in (
            (groups.low, settings.low_lr_ratio),
            (groups.high, settings.high_lr_ratio),
            (groups.new, 1.0),
        )
        for block in group
    ]
    for depth, (block, ratio) in enumerate(reversed(blocks), start=1):
        for parameter in block.parameters(model.backbone):
            ratios[parameter] = ratio * settings.layer_decay**depth
    return ratios


def train_mode(model: Classifier, bn_stats: BnStats, frozen: Sequence[nn.Module] = ()) -> None:
    """Set training mode, except for `frozen` modules and BatchNorm with frozen statistics."""
    model.train()
    for module in frozen:
        module.eval()
    if bn_stats == "frozen":
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.eval()


def set_bn_momentum(model: nn.Module, momentum: float | str | None, steps_per_epoch: int) -> None:
    """Set the momentum of all BatchNorm layers; None does not change it.

    "kornblith" is min(10 / steps per epoch, 0.1), so that the statistics of a long epoch
    average over a tenth of it, and those of a short one over ten steps. Kornblith et al. 2019 and
    SimCLR (appendix B.8) state the same rule in TensorFlow's convention, max(1 - 10 / steps, 0.9).
    """
    if momentum is None:
        return
    value = (
        min(KORNBLITH_STEPS / steps_per_epoch, TORCH_MOMENTUM)
        if isinstance(momentum, str)
        else momentum
    )
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.momentum = value
