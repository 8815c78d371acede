"""Settings of methods that train more than a head. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from harness.config.base import NotNegative
from harness.config.train import Parts
from harness.config.transfer import BnStats, Crop, DecayGrid, TransferSettings, Whole

BnMomentum = Annotated[float, Field(gt=0, le=1)] | Literal["kornblith"] | None


def idle_bn_momentum(bn_stats: BnStats) -> dict[str, str]:
    """Map `bn_momentum` to the reason why it has no effect; empty unless statistics are frozen."""
    reason = "has no effect on statistics that are frozen"
    return {"bn_momentum": reason} if bn_stats == "frozen" else {}


class NetworkSettings(TransferSettings):
    """Settings of methods that train weights of the backbone.

    Attributes:
        bn_momentum: momentum of BatchNorm's statistics. None keeps that of the pretrained model.
            kornblith: min(10 / steps per epoch, 0.1).
        accumulate: micro-batches per batch; "auto" is the smallest number that fits in memory.
    """

    bn_momentum: BnMomentum = None
    accumulate: Parts = 1

    def without_effect(self) -> dict[str, str]:
        """Map fields without effect to reasons: `bn_momentum` is one if statistics are frozen."""
        return super().without_effect() | idle_bn_momentum(self.bn_stats)


class BlockSettings(NetworkSettings):
    """Settings of methods that transfer the network's blocks (see `harness.modeling.blocks`).

    Attributes:
        reinit_last: number of last blocks that start from random weights, like the head.
        num_low: number of first blocks with the low learning rate.
        low_lr_ratio: learning rate of the `num_low` blocks, divided by the head's.
        high_lr_ratio: learning rate of the other transferred blocks, divided by the head's.
        layer_decay: factor on the learning rate from each block to the one before it.
    """

    reinit_last: Whole = 0
    num_low: Whole = 0
    low_lr_ratio: NotNegative = 1.0
    high_lr_ratio: NotNegative = 1.0
    layer_decay: Crop = 1.0

    def without_effect(self) -> dict[str, str]:
        """Map fields without effect to reasons: `low_lr_ratio` is one if `num_low` is 0."""
        reason = "has no effect without num_low, the number of blocks that it is for"
        idle = {"low_lr_ratio": reason} if self.num_low == 0 else {}
        return super().without_effect() | idle


class BlockGrid(DecayGrid):
    """Grid axes of methods with weight decay that transfer blocks."""

    low_lr_ratio: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    layer_decay: Annotated[tuple[Crop, ...], Field(min_length=1)] | None = None
    reinit_last: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = None
