# mypy: disable-error-code="no-untyped-def"
"""Cut the part of a JPEG that a box needs out of it; a part of the numba kernel.

The JPEG has a restart index (writers/jpeg/restart_index.py), which locates its segments: the coded
data between two restart markers.
"""

from typing import Any

import numpy as np
from numba import types

from loaders.compile_numba import helper
from writers.jpeg.restart_index import FOOTER, MAGIC, MAX_HEADER, VERSION

_MARGIN = 2  # pixels: chroma of a pixel is interpolated from samples at most this far away
_MIN_WIDTH = 5  # pixels; libjpeg does not interpolate chroma of narrower images
_FOOTER_SIZE = FOOTER.itemsize
_MAGIC_HALVES = int.from_bytes(MAGIC[:4], "little"), int.from_bytes(MAGIC[4:], "little")
_memcpy: Any = types.ExternalFunction("memcpy", types.int64(types.int64, types.int64, types.int64))


def _crc_table() -> np.ndarray:
    """Return the table for CRC-32 by bytes (zlib's polynomial), uint32 [256]."""
    words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        words = np.where(words & 1, (words >> 1) ^ np.uint32(0xEDB88320), words >> 1).astype(
            np.uint32
        )
    return words


_CRC_TABLE = _crc_table()


@helper
def cut_out(
    file, offset, size, width, height, left, top, box_width, box_height, part, source, target
):
    """Assemble the segments under the box into a JPEG in `part`.

    Returns left, top, width and height of the part in pixels, the number of bytes of the part, and
    the number of bytes of its header; all are 0 if the JPEG has no index that matches it. `source`
    and `target` are the addresses of the JPEG and of `part`.
    """
    none = (0, 0, 0, 0, 0, 0)
    footer = offset + size - _FOOTER_SIZE
    if (
        footer < offset
        or _u32(file, footer + 20) != _MAGIC_HALVES[0]
        or _u32(file, footer + 24) != _MAGIC_HALVES[1]
    ):
        return none
    num_segments, frame, header_size = (
        _u32(file, footer),
        offset + _u32(file, footer + 4),
        _u32(file, footer + 8),
    )
    interval, version = _u32(file, footer + 12) & 0xFFFF, _u32(file, footer + 12) >> 16
    table, scan = footer - 2 * num_segments, offset + header_size
    if (
        version != VERSION
        or table < scan
        or header_size > MAX_HEADER
        or interval == 0
        or frame + 10 > scan
        or _crc32(file, offset, scan, table, footer + 16) != _u32(file, footer + 16)
    ):
        return none

    # The frame is FF C0, u16 length, 8, u16 height, u16 width, and the number of components. Each
    # component has an id, sampling factors, and the number of its quantization table.
    num_components = np.int64(file[frame + 9])
    if (
        not (num_components == 1 or num_components == 3)
        or frame + 10 + 3 * num_components > scan
        or 256 * file[frame + 5] + file[frame + 6] != height
        or 256 * file[frame + 7] + file[frame + 8] != width
    ):
        return none
    across, down = np.int64(1), np.int64(1)
    if num_components == 3:  # the MCUs of a one-component scan are single blocks
        for k in range(3):
            factors = np.int64(file[frame + 11 + 3 * k])
            across, down = max(across, factors >> 4), max(down, factors & 15)
    mcus_per_row, num_rows = -(-width // (8 * across)), -(-height // (8 * down))
    if mcus_per_row % interval or num_segments * interval != mcus_per_row * num_rows:
        return none

    segment_width, segment_height, per_row = (
        8 * across * interval,
        8 * down,
        mcus_per_row // interval,
    )
    first, last = (
        max(left - _MARGIN, 0) // segment_width,
        min((left + box_width + _MARGIN - 1) // segment_width, per_row - 1),
    )
    if first and min((last + 1) * segment_width, width) - first * segment_width < _MIN_WIDTH:
        first -= 1
    first_row = max(top - _MARGIN, 0) // segment_height
    last_row = min((top + box_height + _MARGIN - 1) // segment_height, num_rows - 1)
    x, y = first * segment_width, first_row * segment_height
    part_width, part_height = (
        min((last + 1) * segment_width, width) - x,
        min((last_row + 1) * segment_height, height) - y,
    )

    _memcpy(target, source, header_size)
    sides = frame - offset + 5
    part[sides], part[sides + 1] = part_height >> 8, part_height & 255
    part[sides + 2], part[sides + 3] = part_width >> 8, part_width & 255
    begin, part_size, copied = scan, header_size, 0
    for number in range(num_segments):
        # Reading 4 bytes is safe: the footer follows the last length.
        end = begin + (_u32(file, table + 2 * number) & 0xFFFF)
        row, column = number // per_row, number % per_row
        if row > last_row:
            break
        if row >= first_row and first <= column <= last:
            marker = 0xD9 if number == num_segments - 1 else 0xD0 + number % 8
            if end < begin + 2 or end > table or file[end - 2] != 0xFF or file[end - 1] != marker:
                return none
            _memcpy(target + part_size, source + begin - offset, end - begin)
            part_size += end - begin
            part[part_size - 1] = 0xD0 + copied % 8
            copied += 1
        begin = end
    part[part_size - 1] = 0xD9
    return x, y, part_width, part_height, part_size, header_size


@helper
def _u32(file, at):
    return (
        np.int64(file[at])
        | np.int64(file[at + 1]) << 8
        | np.int64(file[at + 2]) << 16
        | np.int64(file[at + 3]) << 24
    )


@helper
def _crc32(file, begin, scan, table, checksum):
    """Compute zlib.crc32(file[begin:scan] + file[table:checksum])."""
    crc, at = np.uint32(0xFFFFFFFF), begin
    while at < checksum:
        crc = _CRC_TABLE[(crc ^ np.uint32(file[at])) & np.uint32(255)] ^ (crc >> np.uint32(8))
        at += 1
        if at == scan:
            at = table
    return np.int64(crc ^ np.uint32(0xFFFFFFFF))
