"""libjpeg-turbo's own interface: warnings are seen, and JPEGs taken apart into colour planes and put together again.

Pillow drops libjpeg's warnings, and only hands out whole RGB pixels. FFCV is linked to libturbojpeg, so where FFCV runs it
is there; no call holds Python's lock.
"""

import ctypes
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from writers.errors import UserError
from writers.jpeg import native as kernel

EXTRANEOUS = (
    "extraneous bytes before marker"  # harmless by itself: some cameras pad the end of a file so
)
CHROMA_FACTORS = {
    0: (1, 1),
    1: (2, 1),
    2: (2, 2),
    3: (1, 1),
    4: (1, 2),
    5: (4, 1),
}  # by TJSAMP: horizontal, vertical
TJSAMP_420, TJSAMP_GRAY = 2, 3
MAX_PIXELS = 178_956_970  # Pillow's limit: more is a decompression bomb, or would need gigabytes
TJCS_YCBCR, TJCS_GRAY, TJCS_CMYK, TJCS_YCCK = 1, 2, 3, 4
TJPF_RGB, TJPF_CMYK = 0, 11
TJFLAG_ACCURATEDCT = 4096


@dataclass(frozen=True, slots=True)
class Planes:
    """A YCbCr or grey image: uint8 planes with what pads them to whole chroma pixels, and the image's own size."""

    planes: tuple[np.ndarray, ...]
    width: int
    height: int
    factors: tuple[int, int]  # how many times smaller the chroma planes are, across and down


class JpegError(Exception):
    """libjpeg-turbo's words."""


def check(data: bytes) -> tuple[int, int]:
    """Decode all of a JPEG; returns width and height.

    Raises JpegError for what libjpeg-turbo complains of, warnings included, unless no pixel depends on it.
    """
    height, width, _ = _decode(data, 1).shape
    return width, height


def decode_rgb(data: bytes, denominator: int = 1) -> np.ndarray | None:
    """Decode at 1 / `denominator` (1, 2, 4 or 8) of the size, rounded up: uint8 [H, W, 3]; None for CMYK.

    Raises JpegError for damaged data.
    """
    pixels = _decode(data, denominator)
    return pixels if pixels.shape[2] == 3 else None


def decode_planes(data: bytes, denominator: int = 1) -> Planes | None:
    """Decode to planes, at 1 / `denominator` (1, 2, 4 or 8) of the size; None for other colours than YCbCr and grey.

    Raises JpegError for damaged data.
    """
    with _handle("tjInitDecompress") as handle:
        width, height, sampling, colours = _header(handle, data)
        if colours not in (TJCS_YCBCR, TJCS_GRAY) or sampling not in CHROMA_FACTORS:
            return None
        width, height = -(-width // denominator), -(-height // denominator)
        planes = _new_planes(width, height, sampling)
        if _library().tjDecompressToYUVPlanes(
            handle,
            data,
            ctypes.c_ulong(len(data)),
            addresses(planes),
            width,
            strides(planes),
            height,
            0,
        ) and (words := _damage(handle, data)):
            raise JpegError(words)
        return Planes(planes, width, height, CHROMA_FACTORS[sampling])


def encode_planes(image: Planes, quality: int) -> bytes:
    """A JPEG of planes at 4:2:0, or of one grey plane."""
    sampling = TJSAMP_GRAY if len(image.planes) == 1 else TJSAMP_420
    assert sampling == TJSAMP_GRAY or image.factors == CHROMA_FACTORS[TJSAMP_420]
    output, size = ctypes.c_void_p(), ctypes.c_ulong()
    with _handle("tjInitCompress") as handle:
        failed = _library().tjCompressFromYUVPlanes(
            handle,
            addresses(image.planes),
            image.width,
            strides(image.planes),
            image.height,
            sampling,
            ctypes.byref(output),
            ctypes.byref(size),
            quality,
            TJFLAG_ACCURATEDCT,
        )
        if failed:
            raise JpegError(_words(handle))
    try:
        return ctypes.string_at(output, size.value)
    finally:
        _library().tjFree(output)


def new_planes(width: int, height: int, *, grey: bool) -> Planes:
    """Room for an image at 4:2:0, or for a grey one."""
    sampling = TJSAMP_GRAY if grey else TJSAMP_420
    return Planes(_new_planes(width, height, sampling), width, height, CHROMA_FACTORS[sampling])


@cache
def _library() -> Any:
    """Loaded once in a process, with the types of what is called."""
    library: Any = None
    for name in ("libturbojpeg.so.0", "libturbojpeg.dylib", *_ffcv_libraries()):
        try:
            library = ctypes.CDLL(
                name
            )  # a symbol of libturbojpeg is found through a library that is linked to it
            break
        except OSError:
            continue
    if library is None:
        raise UserError(
            "libturbojpeg is not there, which FFCV needs, too.",
            "Debian and Ubuntu: apt-get install libturbojpeg0",
        )
    pointer = ctypes.c_void_p
    library.tjInitDecompress.restype = library.tjInitCompress.restype = pointer
    library.tjGetErrorStr2.restype, library.tjGetErrorStr2.argtypes = ctypes.c_char_p, [pointer]
    library.tjDestroy.argtypes = library.tjFree.argtypes = [pointer]
    return library


def _ffcv_libraries() -> Iterator[str]:
    spec = importlib.util.find_spec("ffcv")
    for folder in spec.submodule_search_locations or () if spec else ():
        for place in (Path(folder), Path(folder).parent):
            yield from sorted(str(path) for path in place.glob("_libffcv*.so"))


@contextmanager
def _handle(initialise: str) -> Iterator[ctypes.c_void_p]:
    """One for each call: handles may not be shared by threads, and making one takes some microseconds."""
    handle = ctypes.c_void_p(getattr(_library(), initialise)())
    try:
        yield handle
    finally:
        _library().tjDestroy(handle)


def _decode(data: bytes, denominator: int) -> np.ndarray:
    """uint8 [H, W, 3], RGB; [H, W, 4] of CMYK."""
    with _handle("tjInitDecompress") as handle:
        width, height, _, colours = _header(handle, data)
        width, height = -(-width // denominator), -(-height // denominator)
        cmyk = colours in (TJCS_CMYK, TJCS_YCCK)
        pixels = np.empty((height, width, 4 if cmyk else 3), np.uint8)
        if _library().tjDecompress2(
            handle,
            data,
            ctypes.c_ulong(len(data)),
            ctypes.c_void_p(pixels.ctypes.data),
            width,
            0,
            height,
            TJPF_CMYK if cmyk else TJPF_RGB,
            0,
        ) and (words := _damage(handle, data)):
            raise JpegError(words)
        return pixels


def _header(handle: ctypes.c_void_p, data: bytes) -> tuple[int, int, int, int]:
    """Width, height, TJSAMP and TJCS. Raises JpegError."""
    numbers = [ctypes.c_int() for _ in range(4)]
    if _library().tjDecompressHeader3(
        handle, data, ctypes.c_ulong(len(data)), *map(ctypes.byref, numbers)
    ) and (words := _damage(handle, data)):
        raise JpegError(words)
    width, height, sampling, colours = (number.value for number in numbers)
    if width * height > MAX_PIXELS:
        raise JpegError(f"it is {width} x {height} pixels; an image may have {MAX_PIXELS:,}")
    return width, height, sampling, colours


def _words(handle: ctypes.c_void_p) -> str:
    return str(_library().tjGetErrorStr2(handle).decode(errors="replace"))


def _damage(handle: ctypes.c_void_p, data: bytes) -> str:
    """What is wrong with `data`, of which a call has failed: an error, or a warning; '' where no pixel depends on it.

    libjpeg-turbo words its first warning only. Where that may be harmless, libjpeg is asked for those behind it.
    """
    words = _words(handle)
    if EXTRANEOUS not in words:
        return words
    library = kernel.library()
    if (
        library is None
    ):  # behind the end comes nothing, unless it came where a restart marker should have
        return "" if words.endswith("0xd9") and b"\xff\xdd" not in data else words
    message = ctypes.create_string_buffer(200)
    library.harness_find_damage(data, len(data), message)
    return message.value.decode(errors="replace")


def _new_planes(width: int, height: int, sampling: int) -> tuple[np.ndarray, ...]:
    across, down = CHROMA_FACTORS[sampling]
    chroma = -(-height // down), -(-width // across)
    luma = np.empty((chroma[0] * down, chroma[1] * across), np.uint8)
    return (
        (luma,)
        if sampling == TJSAMP_GRAY
        else (luma, np.empty(chroma, np.uint8), np.empty(chroma, np.uint8))
    )


def addresses(planes: Sequence[np.ndarray]) -> Any:
    return (ctypes.c_void_p * 3)(*(plane.ctypes.data for plane in planes))


def strides(planes: Sequence[np.ndarray]) -> Any:
    return (ctypes.c_int * 3)(*(plane.strides[0] for plane in planes))
