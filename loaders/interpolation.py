"""Names and version of the resize. Imports no numpy, so that recipes are read fast."""

from typing import Literal, get_args

# area: the mean of the area under each output pixel, bilinear if an axis grows; stock FFCV's.
# bilinear, bicubic: Pillow's filters with antialiasing, which most published weights expect.
Interpolation = Literal["area", "bilinear", "bicubic"]

# Version of the resize's pixels, part of every plan and of the key of every stage that loads
# images. 1: float sums, 2: integer weights.
RESIZE_VERSION = 2


def number_of(interpolation: Interpolation) -> int:
    """Return the number of an interpolation in the kernels, as in native/resize.h."""
    return get_args(Interpolation).index(interpolation)


def interpolation_of_weights(name: str) -> Interpolation:
    """Return the closest resize for the interpolation that a library names for its weights."""
    return "bilinear" if name == "bilinear" else "bicubic"
