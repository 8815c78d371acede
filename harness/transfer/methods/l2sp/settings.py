"""Settings of L2-SP. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from harness.config.base import NotNegative
from harness.config.transfer import Crop, TrainingGrid, TransferSchedule, Whole
from harness.transfer.methods._network_settings import BlockSettings

StartGroups = Literal["both", "low", "high", "none"]


class L2SPGrid(TrainingGrid):
    """Grid axes of L2-SP, which has no weight decay of its own."""

    alpha: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    beta: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    low_lr_ratio: Annotated[tuple[NotNegative, ...], Field(min_length=1)] | None = None
    layer_decay: Annotated[tuple[Crop, ...], Field(min_length=1)] | None = None
    reinit_last: Annotated[tuple[Whole, ...], Field(min_length=1)] | None = None
    start_groups: Annotated[tuple[StartGroups, ...], Field(min_length=1)] | None = None


class L2SPSchedule(TransferSchedule):
    """Learning-rate curve; the penalty takes the place of weight decay."""

    weight_decay: NotNegative = 0.0
    decay_norm_and_bias: bool = False

    def without_effect(self) -> dict[str, str]:
        """Map fields without effect to reasons: the settings of weight decay are such fields."""
        reason = "has no effect on the method l2sp"
        idle = dict.fromkeys(("weight_decay", "decay_norm_and_bias"), reason)
        return super().without_effect() | idle


class L2SPSettings(BlockSettings):
    """Transfer of the full network with an L2-SP penalty (Li, Grandvalet and Davoine 2018).

    Attributes:
        alpha: strength of the pull of transferred weights toward their pretrained values.
        beta: strength of the pull of all other weights toward zero.
        start_groups: transferred blocks that `alpha` applies to: those with the low learning rate,
            those with the high one, both or none. `beta` applies to the rest.
    """

    optimizer: L2SPSchedule = L2SPSchedule(schedule="step", step_epochs=50)
    grid: L2SPGrid = L2SPGrid()
    alpha: NotNegative = 0.1
    beta: NotNegative = 0.01
    start_groups: StartGroups = "both"


SETTINGS = L2SPSettings
