"""Pictures for the tests."""

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 120, height: int = 100, mode: str = "RGB") -> Image.Image:
    """Make a smooth random image, which JPEG preserves well."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
