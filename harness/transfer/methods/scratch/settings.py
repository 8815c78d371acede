"""Settings of training from random weights. Imports no torch."""

from typing import ClassVar

from harness.config.transfer import DecayGrid, Role
from harness.transfer.methods._network_settings import NetworkSettings


class ScratchSettings(NetworkSettings):
    """Training from random weights. `bn_stats` has no effect: no statistics are pretrained."""

    NEEDS: ClassVar[Role | None] = None

    grid: DecayGrid = DecayGrid()

    def without_effect(self) -> dict[str, str]:
        """Map fields without effect to reasons: `bn_stats` is one."""
        reason = "has no effect on the method scratch"
        return super().without_effect() | {"bn_stats": reason}


SETTINGS = ScratchSettings
