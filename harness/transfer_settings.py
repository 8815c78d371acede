"""What a recipe may say of a transfer method. Imports no torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from harness.base_settings import Count, Positive
from harness.train_settings import ScheduleSettings, TrainSettings


class TransferSettings(TrainSettings):
    """One transfer method. Every lr of the grid trains; val chooses; test is read once, with the chosen model."""

    epochs: Count = 150
    batch_size: Count = 64
    optimizer: ScheduleSettings = ScheduleSettings(lr=0.01, schedule="step", step_epochs=50, weight_decay=5e-4,
                                                   decay_norm_and_bias=True)
    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.001)
    bn_stats: Literal["frozen", "update"] | None = None   # None: frozen for `fixed`, update for `full`

    @model_validator(mode="after")
    def _one_lr(self) -> Self:
        if "lr" in self.optimizer.model_fields_set and "optimizer" in self.model_fields_set:
            raise ValueError("the learning rates of a transfer method are its `lrs`; optimizer.lr has no effect here")
        return self
