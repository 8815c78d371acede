"""What all settings have in common, and the kinds of numbers in them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Frozen, and an unknown key is an error. Validators are built when they are first used: most commands need few."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
