"""How an image's pixels are stored in a beton."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Encoding(BaseModel):
    """What the writer does with each image. Everything here stands in the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["jpeg", "raw", "mixed", "passthrough"] = "jpeg"
    max_resolution: Annotated[int, Field(ge=1)] | None = None   # pixels of the longer side; None: as it comes
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    compress_probability: Annotated[float, Field(ge=0, le=1)] | None = None     # `mixed`: share of images stored as JPEG
