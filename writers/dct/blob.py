"""Convert JPEGs to dct blobs and back without decoding pixels.

The conversion is written in C; `reference.py` is a reader in Python for comparison. All functions
raise UserError if the C extension was not built.
"""

import ctypes
from typing import Any

from writers.errors import UserError
from writers.jpeg import native as kernel
from writers.jpeg.restart_index import DamagedJpegError

MAGIC = b"hdct"
_DONE, _NOT_CONVERTED = 0, 1  # return codes, as in jpeg/libjpeg.h


class DamagedBlobError(Exception):
    """The bytes are not an intact dct blob; the message describes the damage."""


def from_jpeg(jpeg: bytes) -> bytes | None:
    """Convert a JPEG to a blob of the same coefficients, and therefore of the same pixels.

    Equal coefficients give equal bytes. Supported are baseline and progressive JPEGs at least 8
    pixels wide, gray, or YCbCr at 4:4:4, 4:2:2, 4:4:0 or 4:2:0.

    Returns:
        The blob, or None if the format cannot represent the image: it is narrower, or has other
        colors or samplings, 12 bits, or coefficients that encoders do not write for photographs.

    Raises:
        DamagedJpegError: libjpeg reports an error or a warning.
    """
    return _converted("harness_jpeg_to_dct", jpeg, DamagedJpegError)


def to_jpeg(blob: bytes) -> bytes:
    """Convert a blob to a baseline JPEG of the same pixels. Raises DamagedBlobError."""
    jpeg = _converted("harness_dct_to_jpeg", blob, DamagedBlobError)
    assert jpeg is not None, "every intact blob converts"
    return jpeg


def check(blob: bytes) -> tuple[int, int]:
    """Read all blocks of a blob; return width and height in pixels. Raises DamagedBlobError."""
    width, height = ctypes.c_int(), ctypes.c_int()
    message = ctypes.create_string_buffer(200)
    outcome = _library().harness_check_dct(
        blob, len(blob), ctypes.byref(width), ctypes.byref(height), message
    )
    if outcome != _DONE:
        raise DamagedBlobError(message.value.decode("latin-1"))
    return width.value, height.value


def _converted(function: str, data: bytes, damaged: type[Exception]) -> bytes | None:
    opened = _library()
    result, size = ctypes.c_void_p(), ctypes.c_ulong()
    message = ctypes.create_string_buffer(200)
    outcome = getattr(opened, function)(
        data, len(data), ctypes.byref(result), ctypes.byref(size), message
    )
    if outcome == _NOT_CONVERTED:
        return None
    if outcome != _DONE:
        raise damaged(message.value.decode("latin-1"))
    try:
        return ctypes.string_at(result.value or 0, size.value)
    finally:
        opened.harness_free(result)


def _library() -> Any:
    opened = kernel.library()
    if opened is None:
        raise UserError(
            "dct blobs need the package's C parts, which were not built.", kernel.REINSTALL
        )
    return opened
