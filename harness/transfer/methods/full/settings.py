"""Settings of full-network transfer. Imports no torch."""

from harness.transfer.methods._network_settings import BlockGrid, BlockSettings


class FullSettings(BlockSettings):
    """Full-network transfer."""

    grid: BlockGrid = BlockGrid()


SETTINGS = FullSettings
