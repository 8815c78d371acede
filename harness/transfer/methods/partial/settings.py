"""Settings of partial transfer. Imports no torch."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from harness.config.base import Count
from harness.config.transfer import DecayGrid
from harness.transfer.methods._network_settings import NetworkSettings


class PartialGrid(DecayGrid):
    """Grid axes of partial transfer."""

    train_from: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None


class PartialSettings(NetworkSettings):
    """Partial transfer.

    Attributes:
        train_from: first stage of the network that trains; the stem is stage 0.
    """

    grid: PartialGrid = PartialGrid()
    train_from: Count | None = None

    @model_validator(mode="after")
    def _check_train_from(self) -> Self:
        if self.train_from is None and self.grid.train_from is None:
            raise ValueError("the method partial needs train_from, the first stage that trains")
        return self


SETTINGS = PartialSettings
