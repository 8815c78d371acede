# mypy: disable-error-code="no-untyped-def"
"""Decode with numba and FFCV's libjpeg-turbo, if the C kernel was not built.

`decode_run` decodes a run of images without the GIL. If a JPEG has a restart index
(writers/jpeg/restart_index.py), the segments under the crop are assembled into a small JPEG, whose
pixels equal those of the whole image.

The code is written to compile fast, since the first process without a compilation cache waits for
it. Memory is allocated in Python; helpers have no Python wrappers; no argument is a literal, which
would trigger another compilation. Features that pull in much of numba are avoided: min and max of
floats, reversed slices, reshapes. Numba's own inlining (inline="always") takes twice as long.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding
from numba import types

from loaders import compile_numba, cut_out_numba, entropy_numba, resize_numba
from loaders.compile_numba import compiled, helper
from loaders.cut_out_numba import cut_out
from loaders.entropy_numba import SCRATCH_SIZE, is_exact
from loaders.interpolation import Interpolation, number_of
from loaders.resize_numba import num_taps, resize
from writers.beton.encoding import JPEG
from writers.jpeg import restart_index, turbojpeg

_ACCURATE = 4096  # TJFLAG_ACCURATEDCT gives the same pixels as Pillow and torchvision

# libturbojpeg's functions are called by name, which every process resolves again. ctypes functions
# would be pointers inside the compiled code, which numba refuses to cache on disk. Pointers have
# the type int64 here, so that code can add to them.
_PREFIX = "harness_"
_init_turbo: Any = types.ExternalFunction(_PREFIX + "tjInitDecompress", types.int64())
_destroy_turbo: Any = types.ExternalFunction(_PREFIX + "tjDestroy", types.int32(types.int64))
_read_header: Any = types.ExternalFunction(
    _PREFIX + "tjDecompressHeader3",
    types.int32(
        types.int64, types.int64, types.int64, types.int64, types.int64, types.int64, types.int64
    ),
)
_decompress: Any = types.ExternalFunction(
    _PREFIX + "tjDecompress2",
    types.int32(
        types.int64,
        types.int64,
        types.int64,
        types.int64,
        types.int32,
        types.int32,
        types.int32,
        types.int32,
        types.int32,
    ),
)


def open_kernel(library: Path) -> Callable[..., None]:
    """Return `decode_images` of loaders/kernel.py.

    Args:
        library: shared object that is linked to libturbojpeg, such as FFCV's.
    """
    turbo = ctypes.CDLL(str(library))  # stays in the process
    for name in ("tjInitDecompress", "tjDestroy", "tjDecompressHeader3", "tjDecompress2"):
        binding.add_symbol(_PREFIX + name, ctypes.cast(getattr(turbo, name), ctypes.c_void_p).value)

    def decode_images(
        file: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        modes: np.ndarray,
        widths: np.ndarray,
        heights: np.ndarray,
        boxes: np.ndarray,
        flips: np.ndarray,
        output: np.ndarray,
        has_error: np.ndarray,
        table: np.ndarray,
        interpolation: Interpolation = "area",
    ) -> None:
        is_jpeg = modes == JPEG
        rows = np.stack(
            (offsets, sizes, is_jpeg, widths, heights, *boxes.T, flips), axis=1, dtype=np.int64
        )
        # Report JPEGs that are too large as damaged, by a size of 0 bytes. Their width, height and
        # box are 1, so that they fit into the scratch memory.
        rows[is_jpeg & (widths * heights > turbojpeg.MAX_PIXELS), 1:9] = 0, 1, 1, 1, 0, 0, 1, 1
        num_pixels = np.max(rows[:, 3] * rows[:, 4], where=is_jpeg, initial=0)
        scratch = np.empty(3 * int(num_pixels), np.uint8)
        # Mark the array as read-only, like the mapped file, so that numba compiles one version for
        # both. libjpeg-turbo writes to it by address.
        scratch.flags.writeable = False
        part, header_fields = (
            np.empty(np.max(sizes, where=is_jpeg, initial=0), np.uint8),
            np.empty(4, np.int32),
        )
        addresses = np.array([array.ctypes.data for array in (file, part, scratch, header_fields)])

        n, resolution = output.shape[:2]
        widest, highest = int(boxes[:, 2].max(initial=1)), int(boxes[:, 3].max(initial=1))
        kind = number_of(interpolation)
        x_taps, y_taps = (num_taps.py_func(side, resolution, kind) for side in (widest, highest))
        starts, shares = (
            np.empty(resolution, np.uint64),
            np.empty(resolution * x_taps + y_taps, np.int32),
        )
        line, ring, result = (
            np.zeros((widest + x_taps) * 3, np.uint8),
            np.empty((y_taps, resolution * 3), np.int32),
            np.empty(resolution * 3, np.int32),
        )
        assert output.flags.c_contiguous
        if len(table):
            output = output.view(np.uint16)  # numba lacks float16; copying the bits is enough
        decode_run(
            file,
            rows,
            output.reshape(n, 3 * resolution**2),
            has_error,
            table.view(np.uint16),
            part,
            scratch,
            header_fields,
            addresses,
            starts,
            shares,
            line,
            ring,
            result,
            kind,
            np.empty(SCRATCH_SIZE, np.int32),
        )
        for i in np.flatnonzero(has_error):
            blob = file[offsets[i] : offsets[i] + sizes[i]].tobytes()
            has_error[i] = _is_damaged(blob, (int(heights[i]), int(widths[i]), 3))

    return decode_images


def _is_damaged(jpeg: bytes, shape: tuple[int, int, int]) -> bool:
    """Return True if a libjpeg-turbo warning affects pixels.

    The compiled code only detects that there was a warning, not which one.
    """
    try:
        pixels = turbojpeg.decode_rgb(jpeg)
    except turbojpeg.JpegError:
        return True
    return pixels is None or pixels.shape != shape


@helper
def _decode(
    turbo,
    file,
    row,
    part,
    header_fields,
    addresses,
    codes,
):
    """Decode an image to scratch: at least the area of its box, at most the whole image.

    `row` is a row of decode_run. Returns left, top and bytes per row of the decoded area, and True
    if libjpeg-turbo had an error or a warning.
    """
    offset, size, width, height = row[0], row[1], row[3], row[4]
    left, top, box_width, box_height = row[5], row[6], row[7], row[8]
    source, target, pixels, at = addresses[0] + offset, addresses[1], addresses[2], addresses[3]
    x, y, part_width, part_height, part_size, header_size = cut_out(
        file, offset, size, width, height, left, top, box_width, box_height, part, source, target
    )
    if (
        part_size
        and is_exact(part, part_size, header_size, codes)
        and _decompress(turbo, target, part_size, pixels, part_width, 0, part_height, 0, _ACCURATE)
        == 0
    ):
        return x, y, part_width * 3, False
    # No index, or an error: decode the whole image with libjpeg-turbo.
    header_fields[0] = 0  # stays 0 after an error; a header with a warning is still read
    _read_header(turbo, source, size, at, at + 4, at + 8, at + 12)
    if header_fields[0] != width or header_fields[1] != height:
        return 0, 0, width * 3, True
    failed = _decompress(turbo, source, size, pixels, width, 0, height, 0, _ACCURATE)
    return 0, 0, width * 3, failed != 0


def _make_decode_run(version: int) -> Callable[..., None]:
    """Return decode_run to be compiled. version: a number that changes if a part changes."""

    def decode_run(
        file,
        rows,
        output,
        has_error,
        table,
        part,
        scratch,
        header_fields,
        addresses,
        starts,
        shares,
        line,
        ring,
        result,
        kind,
        codes,
    ):
        """Decode images to output [n, R * R * 3]; set has_error [n] on errors and warnings.

        `rows` is int64 [n, 10]: offset and size in the file; 1 for a JPEG; width and height; left,
        top, width and height of the box; 1 to flip. `kind` is the number of the interpolation.
        `addresses` has the addresses of `file`, `part`, `scratch` and `header_fields`. The other
        arguments are scratch memory: `part` for the largest JPEG, `scratch` for its pixels,
        `header_fields` for the output of tjDecompressHeader3, `codes` for is_exact, and the rest
        for `resize`.
        """
        if version < 0:  # never: see loaders/compile_numba.py
            return
        for i in range(len(rows)):
            row = rows[i]
            offset, is_jpeg, width = row[0], row[2], row[3]
            left, top, box_width, box_height, flip = row[5], row[6], row[7], row[8], row[9]
            if is_jpeg:
                # Make a decoder per image, because an image without tables would use the tables of
                # the previous image.
                turbo = _init_turbo()
                x, y, stride, has_error[i] = _decode(
                    turbo, file, row, part, header_fields, addresses, codes
                )
                _destroy_turbo(turbo)
                pixels, origin = scratch, (top - y) * stride + (left - x) * 3
            else:
                stride = width * 3
                pixels, origin = file, offset + top * stride + left * 3
            resize(
                pixels,
                origin,
                stride,
                box_width,
                box_height,
                flip,
                table,
                output[i],
                starts,
                shares,
                line,
                ring,
                result,
                kind,
            )

    return decode_run


PARTS = (compile_numba, cut_out_numba, entropy_numba, resize_numba, restart_index)
decode_run = compiled(_make_decode_run, PARTS)
