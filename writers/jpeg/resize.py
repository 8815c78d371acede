"""Shrink images: an output pixel is the mean of the area it covers, as in OpenCV's INTER_AREA.

All arithmetic is in integers, so that every machine gives the same bytes. The weight of a pixel has
12 bits per axis.
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

    Output pixel x covers s = step_x[0] / step_x[1] source pixels, from x * s on; the same holds for
    y. The step is an argument, because it may differ from W / w: if the width of an image is odd,
    the last column of a chroma plane counts half. Pixels beyond the border repeat the border.
    Raises MemoryError if memory runs out.
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
