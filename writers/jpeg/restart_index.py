"""Restart-indexed JPEGs: the same pixels, stored so that a part of the image can be decoded alone.

`add_restart_index` recodes a JPEG's coefficients without loss in one baseline scan. It writes a
restart marker after every few MCUs (an MCU holds the blocks of all components for 8 x 8 to 32 x 16
pixels), and decoding can start after each marker. An index of the segments between markers follows
the end of the image, where decoders stop reading, so the result is an ordinary JPEG. Huffman tables
are optimized for the image, which saves about as many bytes as the markers cost. Metadata (EXIF,
ICC profile, comments) is removed: no reader of a `.beton` file uses it, and each decode would copy
it.

The index, little endian, after the end-of-image marker:
    u16 [num_segments]  bytes of each segment, including the marker after it (RSTn, or EOI after the
                        last segment)
    FOOTER              defined below

`loaders/kernel_jpeg.c` and `loaders/cut_out_numba.py` read the index.
"""

import ctypes
import functools
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from writers.errors import UserError
from writers.jpeg import native, turbojpeg
from writers.jpeg.turbojpeg import Planes

MAGIC, VERSION = b"hrst\r\nix", 1
FOOTER = np.dtype(
    [
        ("num_segments", "<u4"),
        ("frame", "<u4"),  # offset of the SOF marker
        # offset of the first segment; each decode copies the header before it
        ("scan", "<u4"),
        ("interval", "<u2"),  # MCUs per segment; a divisor of the MCUs per row
        ("version", "<u2"),
        ("checksum", "<u4"),  # CRC-32 of header, lengths and the fields above
        ("magic", "S8"),
    ]
)
MAX_HEADER = 4096  # limit of the header's bytes; `add_restart_index` usually writes 300 to 600
# 8 x 8 blocks per segment, two MCUs of 4:2:0. Fewer make files larger, more make loading slower.
BLOCKS_WANTED = 12
MAX_BLOCKS_IN_MCU = 10  # limit of the standard for a scan of several components


class DamagedJpegError(Exception):
    """The bytes are not a complete JPEG; the message is the reason."""


def add_restart_index(jpeg: bytes) -> bytes:
    """Return a JPEG of the same pixels with a restart index.

    The same input gives the same bytes, and a JPEG that has an index remains the same. Supported
    are gray, YCbCr and RGB images, baseline and progressive, with any subsampling that fits in one
    scan. Other JPEGs (CMYK, arithmetic coding, 12 bits, incomplete progressive images) are returned
    unchanged. If the header or a segment is too long for the index, the result has none.

    Raises:
        DamagedJpegError: libjpeg cannot read the JPEG to its end without a warning.
        UserError: the package's C parts were not built, or are of another version.
    """
    frame = read_frame(jpeg)
    if frame is None:
        return jpeg
    coded = _coded("harness_add_restart_markers", jpeg, len(jpeg), frame.interval)
    if coded is None:
        return jpeg
    return _with_index(coded, frame.interval)


def encode_indexed(image: Planes, quality: int) -> bytes:
    """Encode planes as `add_restart_index(turbojpeg.encode_planes(...))`, in one pass."""
    gray = len(image.planes) == 1
    interval = interval_of(-(-image.width // (8 if gray else 16)), 1 if gray else 6)
    coded = _coded(
        "harness_encode_with_markers",
        turbojpeg.addresses(image.planes),
        turbojpeg.strides(image.planes),
        len(image.planes),
        image.width,
        image.height,
        quality,
        interval,
    )
    assert coded is not None
    return _with_index(coded, interval)


@dataclass(frozen=True)
class Frame:
    """Layout of a JPEG, from its header."""

    width: int
    height: int
    offset: int  # offset of the SOF marker
    scan: int  # offset of the coded data of the first scan
    blocks_per_mcu: int
    mcus_per_row: int
    num_mcus: int

    @property
    def interval(self) -> int:
        """MCUs per segment."""
        return interval_of(self.mcus_per_row, self.blocks_per_mcu)


@functools.cache
def interval_of(mcus_per_row: int, blocks_per_mcu: int) -> int:
    """Return the MCUs per segment.

    It is a divisor of a row's MCUs, so that segments end at the ends of rows. The number of blocks
    per segment is as close to BLOCKS_WANTED as possible, as a ratio.
    """
    divisors = [number for number in range(1, mcus_per_row + 1) if mcus_per_row % number == 0]
    return min(divisors, key=lambda number: abs(math.log(number * blocks_per_mcu / BLOCKS_WANTED)))


def read_frame(jpeg: bytes) -> Frame | None:
    """Read the header of a JPEG; return None if `add_restart_index` does not support the JPEG.

    Raises DamagedJpegError if the header is missing or damaged, or the image has too many pixels.
    """
    if jpeg[:2] != b"\xff\xd8":
        raise DamagedJpegError("it does not begin as a JPEG does")
    position, frame = 2, None
    while True:
        # Skip fill bytes (0xFF) before a marker, and, as libjpeg does, other bytes that some
        # cameras write there.
        position = jpeg.find(b"\xff", position)
        while 0 <= position < len(jpeg) - 3 and jpeg[position + 1] in (0x00, 0xFF):
            position = jpeg.find(b"\xff", position + 1)
        if not 0 <= position < len(jpeg) - 3:
            raise DamagedJpegError("its header is cut short")
        marker, length = (
            jpeg[position + 1],
            int.from_bytes(jpeg[position + 2 : position + 4], "big"),
        )
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without content
            position += 2
            continue
        if marker == 0xD9:
            raise DamagedJpegError("it ends before its first scan")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None:
                raise DamagedJpegError("it has two frames")
            frame = position, marker, jpeg[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xDA:
            if frame is None or position > len(jpeg):
                raise DamagedJpegError(
                    "its first scan has no frame" if frame is None else "its header is cut short"
                )
            return _layout(*frame, scan=position)


def _layout(offset: int, marker: int, content: bytes, scan: int) -> Frame | None:
    if marker > 0xC2 or len(content) < 6 or content[0] != 8 or content[5] not in (1, 3):
        # Not supported: arithmetic coding, lossless or hierarchical JPEG, other than 8 bits, and
        # other than 1 or 3 components.
        return None
    if len(content) != 6 + 3 * content[5]:
        raise DamagedJpegError("its frame has the wrong length")
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    factors = [divmod(factor, 16) for factor in content[7::3]]
    if (
        not width
        or not height
        or not all(1 <= across <= 4 and 1 <= down <= 4 for across, down in factors)
    ):
        raise DamagedJpegError("its frame has impossible sizes")
    if problem := turbojpeg.size_problem(width, height):
        raise DamagedJpegError(problem)
    if len(factors) == 1:
        # In a scan of one component, an MCU is one block for any sampling factors.
        factors = [(1, 1)]
    blocks = sum(across * down for across, down in factors)
    if blocks > MAX_BLOCKS_IN_MCU:
        return None
    mcus_per_row = -(-width // (8 * max(across for across, _ in factors)))
    num_rows = -(-height // (8 * max(down for _, down in factors)))
    return Frame(width, height, offset, scan, blocks, mcus_per_row, mcus_per_row * num_rows)


def _with_index(jpeg: bytes, interval: int) -> bytes:
    """Append the index. After the header, `jpeg` may have only restart and end markers."""
    frame = read_frame(jpeg)
    assert frame is not None and frame.num_mcus % interval == 0
    coded = np.frombuffer(jpeg, np.uint8, offset=frame.scan)
    markers = np.flatnonzero((coded[:-1] == 0xFF) & (coded[1:] != 0x00))
    lengths = np.diff(markers + 2, prepend=0)
    assert len(markers) == frame.num_mcus // interval and markers[-1] + 2 == len(coded)
    if frame.scan > MAX_HEADER or lengths.max() > 0xFFFF:
        return jpeg  # without an index, it is an ordinary JPEG
    table = lengths.astype("<u2").tobytes()
    footer = np.zeros(1, FOOTER)
    footer[0] = (len(lengths), frame.offset, frame.scan, interval, VERSION, 0, MAGIC)
    before_checksum = footer.tobytes()[: -4 - len(MAGIC)]
    footer["checksum"] = zlib.crc32(jpeg[: frame.scan] + table + before_checksum)
    return jpeg + table + footer.tobytes()


def _coded(function: str, *arguments: Any) -> bytes | None:
    """Return the output of a function of restart.c, or None if it did not change the image.

    Raises DamagedJpegError for a damaged image, and UserError if the C part is missing.
    """
    library = native.library()
    if library is None:
        problem = (
            "is of another version"
            if native.is_outdated(native.MODULE, native.VERSION)
            else "was not built"
        )
        raise UserError(
            f"Restart indices need the package's C part, which {problem}.", native.REINSTALL
        )
    result, size, message = ctypes.c_void_p(), ctypes.c_ulong(), ctypes.create_string_buffer(200)
    outcome = getattr(library, function)(*arguments, result, size, message)
    if outcome < 0:
        raise DamagedJpegError(message.value.decode(errors="replace"))
    if outcome > 0:
        return None
    try:
        return ctypes.string_at(result, size.value)
    finally:
        library.harness_free(result)
