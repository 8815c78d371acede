"""Convert images of any pixel type to 8 bits per channel, by a fixed rule and never by clipping.

    16-bit integers        v // 257
    32-bit integers        up to 255 unchanged, up to 65535 as 16 bits, otherwise by range
    floating point         [0, 1] times 255, otherwise by range
    other types            Pillow's conversion to RGB

"By range" maps the smallest value of the image to 0 and the largest to 255, linearly. A constant
image becomes black. NaN and infinite values are refused.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

MAX_8_BITS, MAX_16_BITS = 255, 65535


class Pixels(NamedTuple):
    """An image of 8 bits per channel.

    Attributes:
        rgb: uint8 [H, W, 3].
        is_scaled: True if values were converted by range: equal values of two images may then get
            different brightness.
    """

    rgb: np.ndarray
    is_scaled: bool = False


def to_rgb(image: Image.Image) -> Pixels:
    """Convert an image to 8 bits. Raises ValueError if values are not finite."""
    if image.mode.startswith("I;16"):
        return _gray(np.asarray(image) // 257)
    if image.mode == "I":
        return _integers(np.asarray(image), is_16_bits=image.format in ("PNG", "PPM"))
    if image.mode == "F":
        return _floats(np.asarray(image))
    return Pixels(np.asarray(image.convert("RGB")))


def _integers(values: np.ndarray, *, is_16_bits: bool) -> Pixels:
    """Convert int32 [H, W]. `is_16_bits` is True for PNG and PPM, which hold at most 16 bits."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MAX_16_BITS:
        return _by_range(values)
    return _gray(values if high <= MAX_8_BITS and not is_16_bits else values // 257)


def _floats(values: np.ndarray) -> Pixels:
    """Convert float32 [H, W]. Raises ValueError if a value is not finite."""
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    if values.min() < 0 or values.max() > 1:
        return _by_range(values)
    return _gray(np.rint(values.astype(np.float64) * 255))


def _by_range(values: np.ndarray) -> Pixels:
    wide = values.astype(np.float64)
    low, high = float(wide.min()), float(wide.max())
    scaled = (wide - low) * (255 / (high - low)) if high > low else np.zeros_like(wide)
    return Pixels(_gray(np.rint(scaled)).rgb, is_scaled=True)


def _gray(values: np.ndarray) -> Pixels:
    return Pixels(np.repeat(values.astype(np.uint8)[..., None], 3, axis=2))
