"""Define names and version of the resize. Imports no numpy, so that recipes are read fast."""

from typing import Literal, get_args

# area: mean of the area under each output pixel if an axis shrinks, bilinear if it grows, as in
# stock FFCV.
# bilinear, bicubic: Pillow's filters with antialiasing, which most published weights expect.
Interpolation = Literal["area", "bilinear", "bicubic"]

# Version of the pixels that the resize computes. It is part of every plan, and of the key of every
# stage that loads images. 1: float sums, 2: integer weights.
RESIZE_VERSION = 2


def number_of(interpolation: Interpolation) -> int:
    """Return the number that the kernels use for an interpolation, as in native/resize.h."""
    return get_args(Interpolation).index(interpolation)


def interpolation_of_weights(name: str) -> Interpolation:
    """Return the resize that is closest to the interpolation that published weights name."""
    return "bilinear" if name == "bilinear" else "bicubic"
