"""Call libjpeg-turbo's TurboJPEG API, which reports warnings and reads and writes color planes.

Pillow hides libjpeg's warnings and returns only RGB pixels. FFCV links to libturbojpeg, so that it
is available wherever FFCV runs. Calls release the GIL.
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
from writers.jpeg import native

# Warning that alone does not mean damage: some cameras pad files with such bytes.
EXTRANEOUS = "extraneous bytes before marker"
# TJSAMP -> subsampling of chroma, horizontal and vertical
CHROMA_FACTORS = {
    0: (1, 1),
    1: (2, 1),
    2: (2, 2),
    3: (1, 1),
    4: (1, 2),
    5: (4, 1),
}
TJSAMP_UNNAMED, TJSAMP_420, TJSAMP_GRAY = -1, 2, 3
UNNAMED_SAMPLING = "Could not determine subsampling"  # error text of tjDecompressHeader3
MAX_PIXELS = 178_956_970  # pixels of an image: Pillow's limit against decompression bombs
TJCS_YCBCR, TJCS_GRAY, TJCS_CMYK, TJCS_YCCK = 1, 2, 3, 4
TJPF_RGB, TJPF_CMYK = 0, 11
TJFLAG_ACCURATEDCT = 4096


@dataclass(frozen=True, slots=True)
class Planes:
    """A YCbCr or gray image: uint8 planes padded to whole chroma pixels, and the image's size.

    `planes` are Y, Cb and Cr, or only Y, each [h, w].
    """

    planes: tuple[np.ndarray, ...]
    width: int
    height: int
    factors: tuple[int, int]  # subsampling of the chroma planes, horizontal and vertical


class JpegError(Exception):
    """An error or warning of libjpeg-turbo."""


def check(data: bytes) -> tuple[int, int]:
    """Decode a JPEG completely and return width and height.

    Raises JpegError for errors, and for warnings after which pixels may be wrong.
    """
    height, width, _ = _decode(data, 1).shape
    return width, height


def decode_rgb(data: bytes, denominator: int = 1) -> np.ndarray | None:
    """Decode at 1 / `denominator` (1, 2, 4 or 8) of the size, rounded up.

    Returns:
        uint8 [H, W, 3], or None for CMYK.

    Raises:
        JpegError: damaged data.
    """
    pixels = _decode(data, denominator)
    return pixels if pixels.shape[2] == 3 else None


def decode_planes(data: bytes, denominator: int = 1) -> Planes | None:
    """Decode to planes at 1 / `denominator` (1, 2, 4 or 8) of the size.

    Returns:
        None for color spaces other than YCbCr and gray, and for sampling factors without a name in
        TurboJPEG.

    Raises:
        JpegError: damaged data.
    """
    with _handle("tjInitDecompress") as handle:
        width, height, sampling, colors = _header(handle, data)
        if colors not in (TJCS_YCBCR, TJCS_GRAY) or sampling not in CHROMA_FACTORS:
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
    """Encode planes at 4:2:0, or one gray plane, as JPEG. Raises JpegError if that fails."""
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


def new_planes(width: int, height: int, *, gray: bool) -> Planes:
    """Allocate planes for an image at 4:2:0, or for a gray one."""
    sampling = TJSAMP_GRAY if gray else TJSAMP_420
    return Planes(_new_planes(width, height, sampling), width, height, CHROMA_FACTORS[sampling])


@cache
def _library() -> Any:
    """Load the library once per process and declare its functions.

    Raises UserError if the library is not installed.
    """
    library: Any = None
    for name in ("libturbojpeg.so.0", "libturbojpeg.dylib", *_ffcv_libraries()):
        try:
            # FFCV's library gives access to the symbols of libturbojpeg, because it links to it
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        raise UserError(
            "libturbojpeg is missing; FFCV needs it as well.",
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
def _handle(initialize: str) -> Iterator[ctypes.c_void_p]:
    """Open a handle inside the block. Each call opens its own: threads cannot share a handle."""
    handle = ctypes.c_void_p(getattr(_library(), initialize)())
    try:
        yield handle
    finally:
        _library().tjDestroy(handle)


def _decode(data: bytes, denominator: int) -> np.ndarray:
    """Decode to uint8 [H, W, 3] RGB, or [H, W, 4] for CMYK. Raises JpegError."""
    with _handle("tjInitDecompress") as handle:
        width, height, _, colors = _header(handle, data)
        width, height = -(-width // denominator), -(-height // denominator)
        cmyk = colors in (TJCS_CMYK, TJCS_YCCK)
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
    """Read width, height, TJSAMP and TJCS. Raises JpegError.

    TJSAMP is TJSAMP_UNNAMED for sampling factors without a name. TurboJPEG decodes these to RGB,
    too.
    """
    numbers = [ctypes.c_int() for _ in range(4)]
    failed = _library().tjDecompressHeader3(
        handle, data, ctypes.c_ulong(len(data)), *map(ctypes.byref, numbers)
    )
    width, height, sampling, colors = (number.value for number in numbers)
    if failed and UNNAMED_SAMPLING in _words(handle):
        sampling = TJSAMP_UNNAMED
    elif failed and (words := _damage(handle, data)):
        raise JpegError(words)
    if problem := size_problem(width, height):
        raise JpegError(problem)
    return width, height, sampling, colors


def size_problem(width: int, height: int) -> str:
    """Return why an image has too many pixels, or '' if it is within the limit."""
    if width * height <= MAX_PIXELS:
        return ""
    return f"it is {width} x {height} pixels; an image may have {MAX_PIXELS:,}"


def _words(handle: ctypes.c_void_p) -> str:
    return str(_library().tjGetErrorStr2(handle).decode(errors="replace"))


def _damage(handle: ctypes.c_void_p, data: bytes) -> str:
    """Return the error or warning of a failed call, or '' if all pixels are right nevertheless.

    libjpeg-turbo reports only its first warning. If that warning may be harmless, the file is
    checked again by libjpeg, which also reports later warnings.
    """
    words = _words(handle)
    if EXTRANEOUS not in words:
        return words
    library = native.library()
    if library is None:  # no damage before the end marker, unless a restart marker may be missing
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
    """Return the addresses of the planes as a C array of three pointers."""
    return (ctypes.c_void_p * 3)(*(plane.ctypes.data for plane in planes))


def strides(planes: Sequence[np.ndarray]) -> Any:
    """Return the bytes per row of the planes as a C array of three ints."""
    return (ctypes.c_int * 3)(*(plane.strides[0] for plane in planes))
