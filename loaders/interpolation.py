"""Names and version of the resize. Imports nothing, so that recipes are read fast."""

from typing import Literal

# area: the mean of the area under each output pixel, bilinear if an axis grows. bilinear, bicubic:
# Pillow's filters with antialiasing.
Interpolation = Literal["area", "bilinear", "bicubic"]

# Version of the resize's pixels, part of every plan and of the key of every stage that loads
# images. 1: float sums, 2: integer weights.
RESIZE_VERSION = 2
