"""The settings of how a beton stores images. `writers.beton.encode` does it."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

JPEG, RAW = 0, 1  # the modes of an image in FFCV's format
DCT = 2  # not one of FFCV's: a JPEG's coefficients (writers/dct)
MAX_SIDE = 65535  # of 16 bits in the format
PRESET = re.compile(
    r"(?P<max_resolution>\d+)_(?P<compress_probability>[01](?:\.\d+)?)_(?P<jpeg_quality>\d+)"
)


class Encoding(BaseModel):
    """What the writer does with each image. Everything here stands in the manifest. Reads from a preset's name, too.

    `jpeg`: JPEG 4:2:0 (grey: one plane), small images (<= 96 px) raw. `raw`: pixels. `mixed`: some as JPEG, by a draw that is
    a function of seed and sample id; the rest raw. `passthrough`: a baseline or progressive JPEG file, grey or of three
    colours, that is within max_resolution is stored byte for byte, the rest as `jpeg`. `dct`: the coefficients of the JPEG that
    `passthrough` would store, without entropy code: the same pixels, loaded about twice as fast, which stock FFCV cannot read.
    What the format does not hold stays a JPEG. EXIF orientation is ignored, as torchvision does.

    Presets are named as ffcv-imagenet names its files, <max resolution>_<share of JPEG>_<quality>: 500_0.50_90; and jpeg,
    raw, passthrough and dct stand for themselves.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    format: Literal["jpeg", "raw", "mixed", "passthrough", "dct"] = "jpeg"
    max_resolution: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = (
        None  # pixels of the longer side; None: as it comes
    )
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    compress_probability: Annotated[float, Field(ge=0, le=1)] | None = (
        None  # `mixed`: share of images stored as JPEG
    )
    restart_index: bool = True  # JPEGs of which loaders decode only the part they show (writers/jpeg/restart_index.py)

    @model_validator(mode="before")
    @classmethod
    def _with_index(cls, value: Any) -> Any:
        """Unless told: an index where JPEGs are made here. `passthrough` keeps its word, and a file its bytes."""
        if not isinstance(value, dict) or value.get("restart_index") is not None:
            return value
        return value | {"restart_index": value.get("format", "jpeg") in ("jpeg", "mixed", "dct")}

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        if isinstance(value, float):  # YAML takes underscores inside numbers
            raise ValueError(
                'write a preset in quotes, "500_0.50_90": without them YAML takes it for a number'
            )
        if not isinstance(value, str):
            return value
        if value in ("jpeg", "raw", "passthrough", "dct"):
            return {"format": value}
        if not (found := PRESET.fullmatch(value)):
            raise ValueError(
                f"there is no preset '{value}'; presets are jpeg, raw, passthrough, dct, and names such as "
                "400_0.10_90: max resolution, share stored as JPEG, JPEG quality"
            )
        settings: dict[str, Any] = {
            name: float(number) if "." in number else int(number)
            for name, number in found.groupdict().items()
        }
        return settings | {"format": "mixed"}

    @model_validator(mode="after")
    def _only_settings_with_effect(self) -> Self:
        if (self.format == "mixed") != (self.compress_probability is not None):
            raise ValueError("compress_probability goes with format: mixed, and only with it")
        if self.format == "raw" and self.jpeg_quality != 90:
            raise ValueError("jpeg_quality has no effect with format: raw")
        if self.format == "raw" and self.restart_index:
            raise ValueError("restart_index has no effect with format: raw")
        return self
