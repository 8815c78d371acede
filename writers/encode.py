"""How an image's pixels are stored in a beton: settings, and from a file's bytes to a blob."""

import io
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from writers.errors import UserError
from writers.restart import add_restart_index

SMALL = 96          # pixels: an image whose longer side is no longer is stored raw; JPEG would cost accuracy and save little
JPEG, RAW = 0, 1    # the modes of an image in FFCV's format
MAX_SIDE = 65535    # of 16 bits in the format


class Encoding(BaseModel):
    """What the writer does with each image. Everything here stands in the manifest.

    `jpeg`: JPEG 4:2:0, small images (<= 96 px) raw. `raw`: pixels. `mixed`: some as JPEG, by a draw that is a function of
    seed and sample id; the rest raw. `passthrough`: a JPEG file that is within max_resolution is stored byte for byte, the
    rest as `jpeg`. EXIF orientation is ignored, as torchvision does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["jpeg", "raw", "mixed", "passthrough"] = "jpeg"
    max_resolution: Annotated[int, Field(ge=1, le=MAX_SIDE)] | None = None  # pixels of the longer side; None: as it comes
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    compress_probability: Annotated[float, Field(ge=0, le=1)] | None = None     # `mixed`: share of images stored as JPEG
    restart_index: bool = False     # JPEGs of which loaders decode only the part they show (writers/restart.py)

    @model_validator(mode="after")
    def _only_settings_with_effect(self) -> Self:
        if (self.format == "mixed") != (self.compress_probability is not None):
            raise ValueError("compress_probability goes with format: mixed, and only with it")
        if self.format == "raw" and self.jpeg_quality != 90:
            raise ValueError("jpeg_quality has no effect with format: raw")
        if self.format == "raw" and self.restart_index:
            raise ValueError("restart_index has no effect with format: raw")
        return self


@dataclass(frozen=True, slots=True)
class Blob:
    """One image as stored."""

    mode: int           # JPEG or RAW
    width: int
    height: int
    data: bytes


class Unreadable(Exception):
    """The bytes are not an image that can be stored; the message says why."""


def encode(data: bytes, encoding: Encoding, chance: float = 0.0) -> Blob:
    """Store an image file's bytes as the encoding says. `chance`, in [0, 1): the image's own draw, for `mixed`.

    Raises Unreadable for what is not a whole image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of palettes with transparency, and of damaged EXIF, which are not used
            with Image.open(io.BytesIO(data)) as image:
                if encoding.format == "passthrough" and _may_pass(image, data, encoding):
                    return _jpeg_blob(image, data, encoding)
                pixels = _fitted(_rgb(image), encoding.max_resolution)
    except UserError:
        raise
    except Exception as error:      # Pillow's decoders raise what they like: OSError, SyntaxError, struct.error, ...
        raise Unreadable(_reason(data, error)) from error
    if max(pixels.size) > MAX_SIDE:
        raise Unreadable(f"it is {pixels.width} x {pixels.height} pixels; a beton holds up to {MAX_SIDE} a side")
    if _as_jpeg(pixels, encoding, chance):
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG", quality=encoding.jpeg_quality, subsampling="4:2:0")
        return _jpeg_blob(pixels, buffer.getvalue(), encoding)
    return Blob(RAW, pixels.width, pixels.height, pixels.tobytes())


def _jpeg_blob(image: Image.Image, jpeg: bytes, encoding: Encoding) -> Blob:
    return Blob(JPEG, image.width, image.height, add_restart_index(jpeg) if encoding.restart_index else jpeg)


def _may_pass(image: Image.Image, data: bytes, encoding: Encoding) -> bool:
    """A JPEG that libjpeg-turbo turns into RGB by itself, small enough, and whole as far as its ends show."""
    small_enough = encoding.max_resolution is None or max(image.size) <= encoding.max_resolution
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or not small_enough:
        return False
    if b"\xff\xd9" not in data[-4096:]:     # cameras pad, and some append a little, after the end-of-image marker
        raise OSError("the JPEG is cut short")
    return True


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":      # Pillow's own conversion clips 16 bits at 255
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _fitted(image: Image.Image, max_resolution: int | None) -> Image.Image:
    """Shrunk so that the longer side is max_resolution; each new pixel is the mean of the area that it covers."""
    if max_resolution is None or max(image.size) <= max_resolution:
        return image
    ratio = max_resolution / max(image.size)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    return image.resize(size, Image.Resampling.BOX)


def _as_jpeg(image: Image.Image, encoding: Encoding, chance: float) -> bool:
    if encoding.format == "raw" or max(image.size) <= SMALL:
        return False
    return encoding.compress_probability is None or chance < encoding.compress_probability


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image that Pillow knows"
    return str(error) or type(error).__name__
