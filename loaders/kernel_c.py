"""The C kernel, loaders/kernel.c, as Python calls it."""

import ctypes
from collections.abc import Callable

import numpy as np

from writers.jpeg import native as kernel

MODULE, VERSION = "loaders._kernel", 1  # as in kernel.h
_COLUMNS = (
    np.int64,
    np.int64,
    np.uint8,
    np.int64,
    np.int64,
    np.int64,
    np.bool_,
)  # offsets ... flips


def library() -> ctypes.CDLL | None:
    """None: libjpeg-turbo's headers were not there at the installation, or the sources were others."""
    return kernel.open_library(MODULE, VERSION)


def open_kernel() -> Callable[..., None]:
    """`decode_images` of loaders/kernel.py. ctypes gives Python's lock back for as long as the call lasts."""
    opened = library()
    assert opened is not None, "loaders.kernel asks first whether there is one"
    function = opened.harness_decode_images
    function.argtypes = [
        ctypes.c_void_p,
        *[ctypes.c_void_p] * len(_COLUMNS),
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]

    def decode_images(file: np.ndarray, *columns: np.ndarray) -> None:
        *settings, output, complaints, table = columns
        arrays: list[np.ndarray] = [
            np.ascontiguousarray(column, dtype)
            for column, dtype in zip(settings, _COLUMNS, strict=True)
        ]
        assert (
            output.flags.c_contiguous and complaints.flags.c_contiguous and table.flags.c_contiguous
        )
        assert (
            output.dtype == (np.float16 if len(table) else np.uint8) and table.dtype == np.float16
        )
        n, resolution = output.shape[:2]
        if (
            function(
                file.ctypes.data,
                *[array.ctypes.data for array in arrays],
                n,
                resolution,
                output.ctypes.data,
                complaints.ctypes.data,
                table.ctypes.data if len(table) else None,
            )
            != 0
        ):
            raise MemoryError(
                f"no memory to decode an image of up to {int(max(columns[3]))} x {int(max(columns[4]))} pixels"
            )

    return decode_images
