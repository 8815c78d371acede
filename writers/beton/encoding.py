"""Settings that define how a `.beton` file stores images; `writers.beton.encode` applies them."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

JPEG, RAW = 0, 1  # modes of an image in FFCV's format
DCT = 2  # our own mode, unknown to FFCV: quantized coefficients of a JPEG (writers/dct)
MAX_SIDE = 65535  # largest width or height in pixels: the format stores 16 bits
PRESET = re.compile(
    r"(?P<max_resolution>\d+)_(?P<compress_probability>[01](?:\.\d+)?)_(?P<jpeg_quality>\d+)"
)


class Encoding(BaseModel):
    """Settings by which the writer stores images. The manifest contains all of them.

    The name of a preset can be given instead of the settings.

    Formats:
        jpeg: JPEG 4:2:0 (from gray JPEGs: one plane); small images (<= 96 px) raw.
        raw: pixels.
        mixed: a fraction of the images as JPEG, drawn by seed and sample id; other images raw.
        passthrough: baseline or progressive JPEG files, gray or with three colors, within
            max_resolution, byte for byte (without restart_index); other images as in `jpeg`.
        dct: coefficients of the JPEG that `passthrough` would store, without entropy coding: the
            same pixels, loaded about twice as fast. Stock FFCV cannot read it. Images that cannot
            be stored as coefficients are stored as JPEG.

    EXIF orientation is ignored, as in torchvision. Presets are named like ffcv-imagenet's files,
    <max resolution>_<fraction of JPEG>_<quality>: 500_0.50_90; further presets are jpeg, raw,
    passthrough and dct.

    Attributes:
        format: see above.
        max_resolution: longer side in pixels to which larger images are shrunk. None keeps sizes.
        jpeg_quality: quality of JPEGs that the writer encodes.
        compress_probability: for `mixed`: fraction of images stored as JPEG. None for other
            formats.
        restart_index: add an index, with which loaders decode only the crop of a JPEG. None, or no
            value, means yes, except for `passthrough` and `raw`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    format: Literal["jpeg", "raw", "mixed", "passthrough", "dct"] = "jpeg"
    max_resolution: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = None
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    compress_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    restart_index: bool = True

    @model_validator(mode="before")
    @classmethod
    def _with_index(cls, value: Any) -> Any:
        """Set the default: an index, except for `passthrough`, which keeps the bytes, and `raw`."""
        if not isinstance(value, dict) or value.get("restart_index") is not None:
            return value
        return value | {"restart_index": value.get("format", "jpeg") in ("jpeg", "mixed", "dct")}

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        if isinstance(value, float):  # YAML allows underscores in numbers, as in 500_0.5
            raise ValueError(
                'write a preset in quotes, "500_0.50_90": without them YAML reads a number'
            )
        if not isinstance(value, str):
            return value
        if value in ("jpeg", "raw", "passthrough", "dct"):
            return {"format": value}
        if not (found := PRESET.fullmatch(value)):
            raise ValueError(
                f"there is no preset '{value}'; presets are jpeg, raw, passthrough, dct, and names "
                "such as "
                "400_0.10_90: max resolution, fraction stored as JPEG, JPEG quality"
            )
        settings: dict[str, Any] = {
            name: float(number) if "." in number else int(number)
            for name, number in found.groupdict().items()
        }
        return settings | {"format": "mixed"}

    def over(self, base: "Encoding") -> "Encoding":
        """Return this encoding, with unset settings taken from `base` if its format has them."""
        own = self.model_dump(include=self.model_fields_set)
        if "format" not in own and own.get("restart_index"):
            del own["restart_index"]  # it may be the default of a format that `base` replaces
        left_out = {"restart_index"} if "format" in own else set()
        chosen = own.get("format", base.format)
        left_out |= {"jpeg_quality"} if chosen == "raw" else set()
        left_out |= {"compress_probability"} if chosen != "mixed" else set()
        inherited = base.model_dump(include=base.model_fields_set - left_out)
        return Encoding.model_validate({**inherited, **own})

    @model_validator(mode="after")
    def _only_settings_with_effect(self) -> Self:
        if (self.format == "mixed") != (self.compress_probability is not None):
            raise ValueError("compress_probability is only used with format: mixed, which needs it")
        if self.format == "raw" and self.jpeg_quality != 90:
            raise ValueError("jpeg_quality has no effect with format: raw")
        if self.format == "raw" and self.restart_index:
            raise ValueError("restart_index has no effect with format: raw")
        return self
