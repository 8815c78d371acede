"""Blobs out of JPEGs and back, without decoding pixels. The C parts do it; `reference.py` reads blobs without them."""

import ctypes
from typing import Any

from writers.errors import UserError
from writers.jpeg import native as kernel
from writers.jpeg.restart_index import DamagedJpegError

MAGIC = b"hdct"
_DONE, _LEFT_ALONE = 0, 1  # as in encode.c


class DamagedBlob(Exception):
    """The bytes are not a whole `dct` blob; the message names what is damaged."""


def from_jpeg(jpeg: bytes) -> bytes | None:
    """The coefficients of a JPEG: the same pixels. The same bytes for the same coefficients.

    Baseline and progressive, grey and YCbCr at 4:4:4, 4:2:2, 4:4:0 and 4:2:0, at least 8 pixels wide. None for what a blob does
    not hold: other colors and samplings, 12 bits, coefficients that no encoder of photographs writes. Raises DamagedJpegError for
    what libjpeg cannot read to the end without a warning, and UserError without the package's C parts.
    """
    return _converted("harness_jpeg_to_dct", jpeg, DamagedJpegError)


def to_jpeg(blob: bytes) -> bytes:
    """A baseline JPEG of the blob's coefficients: the same pixels. Raises DamagedBlob."""
    jpeg = _converted("harness_dct_to_jpeg", blob, DamagedBlob)
    assert jpeg is not None, "only JPEGs can be left alone"
    return jpeg


def check(blob: bytes) -> tuple[int, int]:
    """Read all blocks of a blob; returns its width and height in pixels. Raises DamagedBlob."""
    width, height = ctypes.c_int(), ctypes.c_int()
    message = ctypes.create_string_buffer(200)
    outcome = _library().harness_check_dct(
        blob, len(blob), ctypes.byref(width), ctypes.byref(height), message
    )
    if outcome != _DONE:
        raise DamagedBlob(message.value.decode("latin-1"))
    return width.value, height.value


def _converted(function: str, data: bytes, damaged: type[Exception]) -> bytes | None:
    opened = _library()
    result, size = ctypes.c_void_p(), ctypes.c_ulong()
    message = ctypes.create_string_buffer(200)
    outcome = getattr(opened, function)(
        data, len(data), ctypes.byref(result), ctypes.byref(size), message
    )
    if outcome == _LEFT_ALONE:
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
        raise UserError("dct blobs need the package's C parts, which were not built.", kernel.CURE)
    return opened
