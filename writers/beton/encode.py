"""Encode an image file as a blob of a `.beton` file, with the settings of `writers.beton.encoding`.

libjpeg-turbo decodes JPEG files, at reduced size if they are much larger than needed. If it warns
that pixels depend on damaged data, the image is refused, as in the loaders. A JPEG that is stored
as a smaller JPEG is resized in its color planes: no conversion to RGB, and half as many values to
resize. Pillow reads all other files, and JPEGs of other kinds, such as CMYK.
"""

import io
import warnings
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, UnidentifiedImageError

from writers.beton.encoding import DCT, JPEG, MAX_SIDE, RAW, Encoding
from writers.beton.pixels import Pixels, to_rgb
from writers.dct import blob as dct
from writers.formats.image_formats import HEAD_BYTES, other_format_of
from writers.jpeg import turbojpeg
from writers.jpeg.damage import check_coded_data
from writers.jpeg.markers import check_markers
from writers.jpeg.resize import shrink, shrink_into
from writers.jpeg.restart_index import (
    DamagedJpegError,
    add_restart_index,
    encode_indexed,
    read_frame,
)

# Longer side in pixels up to which images are stored raw: JPEG would cost accuracy and save little.
SMALL = 96


@dataclass(frozen=True, slots=True)
class Blob:
    """An image as stored."""

    mode: int  # JPEG, RAW or DCT
    width: int  # pixels, as stored
    height: int
    data: bytes  # JPEG file, pixels (uint8 [H, W, 3]) or dct blob
    is_scaled: bool = False  # pixel values were scaled by the image's own range


class UnreadableError(Exception):
    """The bytes are not an image that can be stored; the message is the reason."""


def encode(
    data: bytes,
    encoding: Encoding,
    chance: float = 0.0,
    *,
    check: bool = True,
    lenient: bool = False,
) -> Blob:
    """Encode an image file.

    Args:
        data: bytes of the file.
        encoding: settings.
        chance: random number of the image in [0, 1). In the format `mixed`, the image is stored as
            JPEG if it is below `encoding.compress_probability`.
        check: if a JPEG is stored byte for byte, read all its coded data, which finds all damage
            that a decoder would find. False checks only its markers.
        lenient: decode the image by Pillow, which tolerates slight damage, and encode it again.

    Raises:
        UnreadableError: the file is not a complete image, or is too large.
    """
    if lenient or data[:2] != b"\xff\xd8":
        pixels = _rgb_by_pillow(data)
        blob = _encode_pixels(pixels.rgb, encoding, chance)
        return replace(blob, is_scaled=pixels.is_scaled)
    try:
        return _encode_jpeg(data, encoding, chance, check)
    except (DamagedJpegError, turbojpeg.JpegError) as error:
        raise UnreadableError(f"the JPEG is damaged: {error}") from error


def check_image(data: bytes, *, lenient: bool = False) -> None:
    """Decode an image file by the rules of `encode`. Raises UnreadableError."""
    if lenient or data[:2] != b"\xff\xd8":
        _rgb_by_pillow(data)
        return
    try:
        frame = read_frame(data)
        turbojpeg.check(data)
    except (DamagedJpegError, turbojpeg.JpegError) as error:
        raise UnreadableError(f"the JPEG is damaged: {error}") from error
    if frame is None:
        _rgb_by_pillow(data)


def _encode_jpeg(data: bytes, encoding: Encoding, chance: float, check: bool) -> Blob:
    frame = read_frame(data)
    if frame is None:  # CMYK, 12 bits and other kinds that cannot have a restart index
        turbojpeg.check(data)
        return _encode_pixels(_rgb_by_pillow(data).rgb, encoding, chance)
    size = frame.width, frame.height
    fitted = _fitted(size, encoding.max_resolution)
    if encoding.format == "passthrough" and fitted == size:
        if encoding.restart_index:  # adding the index also reads all coded data
            return _jpeg_blob(data, size, encoding)
        if check:
            check_coded_data(data)
        else:
            check_markers(data, frame.scan)
        return Blob(JPEG, *size, data)
    if encoding.format == "dct" and fitted == size:
        return _jpeg_blob(data, size, encoding)  # this also reads all coded data
    denominator = _denominator(size, fitted)
    if (
        _as_jpeg(fitted, encoding, chance)
        and (planes := turbojpeg.decode_planes(data, denominator)) is not None
        and (smaller := _shrunk(planes, fitted)) is not None
    ):
        if encoding.format == "dct":
            whole = turbojpeg.encode_planes(smaller, encoding.jpeg_quality)
            return _jpeg_blob(whole, fitted, encoding)
        encoded = (encode_indexed if encoding.restart_index else turbojpeg.encode_planes)(
            smaller, encoding.jpeg_quality
        )
        return Blob(JPEG, *fitted, encoded)
    pixels = turbojpeg.decode_rgb(data, denominator)
    return _encode_pixels(
        _rgb_by_pillow(data).rgb if pixels is None else pixels, encoding, chance, fitted
    )


def _encode_pixels(
    pixels: np.ndarray, encoding: Encoding, chance: float, size: tuple[int, int] | None = None
) -> Blob:
    """Encode pixels, uint8 [H, W, 3].

    `size` is the stored width and height. None derives them from the pixels and `max_resolution`.
    Raises UnreadableError if a side exceeds MAX_SIDE.
    """
    height, width, _ = pixels.shape
    width, height = fitted = size or _fitted((width, height), encoding.max_resolution)
    if max(fitted) > MAX_SIDE:
        raise UnreadableError(
            f"it is {width} x {height} pixels; a beton holds up to {MAX_SIDE} per side"
        )
    if pixels.shape[:2] != (height, width):
        pixels = shrink(pixels, width, height)
    if not _as_jpeg(fitted, encoding, chance):
        return Blob(RAW, width, height, pixels.tobytes())
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=encoding.jpeg_quality, subsampling="4:2:0")
    return _jpeg_blob(buffer.getvalue(), fitted, encoding)


def _jpeg_blob(jpeg: bytes, size: tuple[int, int], encoding: Encoding) -> Blob:
    if encoding.format == "dct" and (coefficients := dct.from_jpeg(jpeg)) is not None:
        return Blob(DCT, *size, coefficients)
    return Blob(JPEG, *size, add_restart_index(jpeg) if encoding.restart_index else jpeg)


def _fitted(size: tuple[int, int], max_resolution: int | None) -> tuple[int, int]:
    """Return width and height after the longer side is shrunk to max_resolution.

    A smaller image keeps its size, and so does each image if max_resolution is None.
    """
    if max_resolution is None or max(size) <= max_resolution:
        return size
    width, height = (max(1, round(side * max_resolution / max(size))) for side in size)
    return width, height


def _denominator(size: tuple[int, int], fitted: tuple[int, int]) -> int:
    """Return the largest scale denominator that decodes a JPEG at twice the target size or more.

    Returns 1 if the JPEG itself is smaller than that.

    Decoding at a reduced size drops high frequencies instead of averaging pixels. At twice the
    target size the difference is small.
    """
    return next(
        part
        for part in (8, 4, 2, 1)
        if part == 1
        or all(have >= 2 * part * want for have, want in zip(size, fitted, strict=True))
    )


def _shrunk(image: turbojpeg.Planes, size: tuple[int, int]) -> turbojpeg.Planes | None:
    """Shrink planes to an image at 4:2:0, or return None if a plane would have to grow.

    A chroma pixel covers several luma pixels, in the source and in the result. The last chroma
    pixel of a row or column may extend beyond the border. So sizes in chroma pixels are fractions;
    they are compared as integers here, multiplied by the factors of both images.
    """
    width, height = size
    across, down = image.factors
    smaller = turbojpeg.new_planes(width, height, gray=len(image.planes) == 1)
    chroma_x, chroma_y = (2 * image.width, across * width), (2 * image.height, down * height)
    if len(image.planes) > 1 and (chroma_x[0] < chroma_x[1] or chroma_y[0] < chroma_y[1]):
        return None
    if smaller.factors == image.factors and (width, height) == (image.width, image.height):
        return image
    luma = smaller.planes[0]
    shrink_into(
        luma[:height, :width, None],
        image.planes[0][: image.height, : image.width, None],
        (image.width, width),
        (image.height, height),
    )
    luma[height:], luma[:, width:] = luma[height - 1], luma[:, width - 1 : width]  # padding
    for chroma, source in zip(smaller.planes[1:], image.planes[1:], strict=True):
        shrink_into(chroma[..., None], source[..., None], chroma_x, chroma_y)
    return smaller


def _rgb_by_pillow(data: bytes) -> Pixels:
    """Decode an image file by Pillow. Raises UnreadableError."""
    try:
        with warnings.catch_warnings():
            # ignore warnings about transparent palettes and damaged EXIF, which are not used
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                if problem := turbojpeg.size_problem(*image.size):
                    raise UnreadableError(problem)
                return to_rgb(image)  # Pillow's own conversion clips values above 255
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise UnreadableError(_reason(data, error)) from error


def _as_jpeg(size: tuple[int, int], encoding: Encoding, chance: float) -> bool:
    if encoding.format == "raw" or max(size) <= SMALL:
        return False
    return encoding.compress_probability is None or chance < encoding.compress_probability


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        other = other_format_of(data[:HEAD_BYTES])
        return f"it is {other}" if other else "it is not an image that Pillow can open"
    return str(error) or type(error).__name__
