"""Settings of fixed-feature transfer. Imports no torch."""

from typing import ClassVar

from harness.config.transfer import BnStats, DecayGrid, TransferSettings
from harness.transfer.methods._network_settings import BnMomentum, idle_bn_momentum


class FixedSettings(TransferSettings):
    """Fixed-feature transfer. BatchNorm statistics are fixed too, unless `bn_stats` is update.

    Attributes:
        bn_momentum: momentum of BatchNorm's statistics. None keeps that of the pretrained model.
            kornblith: min(10 / steps per epoch, 0.1).
    """

    TRAINS_HEAD_ONLY: ClassVar[bool] = True
    TRAINS_TOGETHER: ClassVar[bool] = True

    grid: DecayGrid = DecayGrid()
    bn_stats: BnStats = "frozen"
    bn_momentum: BnMomentum = None

    def without_effect(self) -> dict[str, str]:
        """Map fields without effect to reasons: `bn_momentum` is one if statistics are frozen."""
        return super().without_effect() | idle_bn_momentum(self.bn_stats)


SETTINGS = FixedSettings
