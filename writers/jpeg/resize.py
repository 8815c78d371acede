"""Shrinks images by taking, for each new pixel, the mean of exactly the area that it covers: OpenCV's INTER_AREA.

In whole numbers, so that every machine gets the same bytes: 12 bits for the share of a source pixel, along either axis.
"""

import numpy as np

from writers.jpeg import native as kernel


def shrink(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 [H, W, C] -> uint8 [height, width, C], neither larger than before."""
    output = np.empty((height, width, pixels.shape[2]), np.uint8)
    shrink_into(output, pixels, (pixels.shape[1], width), (pixels.shape[0], height))
    return output


def shrink_into(
    output: np.ndarray, pixels: np.ndarray, step_x: tuple[int, int], step_y: tuple[int, int]
) -> None:
    """Fill `output` (uint8 [h, w, C]) from `pixels` (uint8 [H, W, C]); rows may lie further apart than they are long.

    New pixel (x, y) covers step_x[0] / step_x[1] source pixels from x times that on, and likewise in y. A step of its own
    rather than W / w: a colour plane at half the size has its last column cover half a pixel where the width is odd. What
    would lie beyond the border counts as the border.
    """
    assert (
        pixels.dtype == output.dtype == np.uint8
        and step_x[0] >= step_x[1]
        and step_y[0] >= step_y[1]
    )
    library = kernel.library()
    if library is None:
        from writers.jpeg import resize_numba  # compiles, which takes seconds the first time

        resize_numba.shrink_into(output, pixels, step_x, step_y)
        return
    (height, width, channels), (source_height, source_width, _) = output.shape, pixels.shape
    assert output.strides[1] == pixels.strides[1] == channels  # a row has no gaps
    if not library.harness_shrink(
        output.ctypes.data,
        output.strides[0],
        width,
        height,
        pixels.ctypes.data,
        pixels.strides[0],
        source_width,
        source_height,
        channels,
        *step_x,
        *step_y,
    ):
        raise MemoryError(
            f"no memory to shrink an image of {source_width} x {source_height} pixels"
        )
