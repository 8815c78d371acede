"""Settings of logistic regression. Imports no torch."""

from typing import Annotated, ClassVar

from pydantic import Field

from harness.config.base import JSON, Positive
from harness.config.transfer import MethodSettings, Role

# Penalties of Kornblith et al. 2019, A.3: 45 values from 1e-6 to 1e5, equally spaced in the
# logarithm. They are rounded to be equal on every machine, because they are part of stages' keys.
LAMBDAS = tuple(float(f"{10 ** (-6 + 11 * number / 44):.12g}") for number in range(45))


class LogregSettings(MethodSettings):
    """Logistic regression on frozen features.

    Attributes:
        lambdas: penalties to try.
    """

    NEEDS: ClassVar[Role | None] = "features"
    TRAINS_HEAD_ONLY: ClassVar[bool] = True

    lambdas: Annotated[tuple[Positive, ...], Field(min_length=1)] = LAMBDAS

    def resolved(self) -> JSON:
        """Dump the settings of one stage; the crop belongs to the stage of the features."""
        settings = super().resolved()
        settings.pop("eval_crop", None)
        return settings


SETTINGS = LogregSettings
