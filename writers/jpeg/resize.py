"""Shrink images by averaging exactly the area under each output pixel (OpenCV's INTER_AREA).

Integer arithmetic, so that every machine gives the same bytes: 12 bits per axis for a pixel's
weight.
"""

import numpy as np

from writers.jpeg import native


def shrink(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Shrink uint8 [H, W, C] to uint8 [height, width, C]; neither side may grow."""
    output = np.empty((height, width, pixels.shape[2]), np.uint8)
    shrink_into(output, pixels, (pixels.shape[1], width), (pixels.shape[0], height))
    return output


def shrink_into(
    output: np.ndarray, pixels: np.ndarray, step_x: tuple[int, int], step_y: tuple[int, int]
) -> None:
    """Fill `output` (uint8 [h, w, C]) from `pixels` (uint8 [H, W, C]); rows may be strided.

    Output pixel (x, y) covers step_x[0] / step_x[1] source pixels starting at x times that,
    likewise in y. The step is given instead of W / w because the last column of a chroma plane
    covers half a pixel if the width is odd. Pixels beyond the border repeat the border.
    """
    assert (
        pixels.dtype == output.dtype == np.uint8
        and step_x[0] >= step_x[1]
        and step_y[0] >= step_y[1]
    )
    library = native.library()
    if library is None:
        from writers.jpeg import resize_numba  # compiles for seconds the first time

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
