"""The kernel that works wherever FFCV does: numba, and libjpeg-turbo through the library that FFCV brings.

`decode_run` fills a run of images and holds no Python lock. Of a JPEG with a restart index (writers/restart.py) it puts
the segments under the crop together as a small JPEG of their own, which decodes to the same pixels as the whole.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding
from numba import njit, types

from writers.encode import JPEG
from writers.restart import FOOTER, MAGIC, MAX_HEADER, VERSION

_TAPS_WRITTEN_OUT = 3       # in _sum_columns
_MARGIN = 2                 # pixels beside the crop that its own pixels' colours are interpolated from
_LEAST_WIDTH = 5            # pixels: libjpeg does not interpolate colours in an image that is narrower
_FOOTER_SIZE = FOOTER.itemsize
_MAGIC_HALVES = int.from_bytes(MAGIC[:4], "little"), int.from_bytes(MAGIC[4:], "little")
_ACCURATE = 4096            # TJFLAG_ACCURATEDCT: the pixels that Pillow and torchvision decode

# A ctypes function would be a pointer inside the compiled code, which numba then refuses to cache on disk. By name, the
# address is looked up again in every process.
_PREFIX = "harness_"
_init_turbo: Any = types.ExternalFunction(_PREFIX + "tjInitDecompress", types.uintp())
_destroy_turbo: Any = types.ExternalFunction(_PREFIX + "tjDestroy", types.int32(types.uintp))
_read_header: Any = types.ExternalFunction(_PREFIX + "tjDecompressHeader3", types.int32(
    types.uintp, types.uintp, types.uint64, types.uintp, types.uintp, types.uintp, types.uintp))
_decompress: Any = types.ExternalFunction(_PREFIX + "tjDecompress2", types.int32(
    types.uintp, types.uintp, types.uint64, types.uintp, types.int32, types.int32, types.int32, types.int32, types.int32))


def open_kernel(library: Path) -> Callable[..., None]:
    """What loaders/kernel.py calls a kernel. `library`: a shared object that is linked to libturbojpeg, as FFCV's is."""
    turbo = ctypes.CDLL(str(library))       # stays in the process
    for name in ("tjInitDecompress", "tjDestroy", "tjDecompressHeader3", "tjDecompress2"):
        binding.add_symbol(_PREFIX + name, ctypes.cast(getattr(turbo, name), ctypes.c_void_p).value)

    def decode_images(file: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, modes: np.ndarray, widths: np.ndarray,
                      heights: np.ndarray, boxes: np.ndarray, flips: np.ndarray, output: np.ndarray, complaints: np.ndarray,
                      table: np.ndarray) -> None:
        is_jpeg = modes == JPEG
        scratch = np.empty(3 * int(np.max(widths * heights, where=is_jpeg, initial=0)), np.uint8)
        # As the mapped file is, so that numba compiles what reads the two once; libjpeg-turbo does not ask.
        scratch.flags.writeable = False
        part = np.empty(np.max(sizes, where=is_jpeg, initial=0), np.uint8)
        if len(table):
            output = output.view(np.uint16)     # numba does not know float16, and need not: it moves the bits
        decode_run(file, offsets, sizes, modes, widths, heights, boxes, flips, output, complaints, table.view(np.uint16),
                   scratch, part)

    return decode_images


def _compiled(function: Callable) -> Callable:
    """njit, kept on disk for the next process where some folder for it can be written (numba looks for one)."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:    # "no locator available": every process compiles for itself
        return njit(**options)(function)


def _crc_table() -> np.ndarray:
    """CRC-32 of each byte, as zlib's."""
    words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        words = np.where(words & 1, (words >> 1) ^ np.uint32(0xEDB88320), words >> 1).astype(np.uint32)
    return words


_CRC_TABLE = _crc_table()


@_compiled
def decode_run(file, offsets, sizes, modes, widths, heights, boxes, flips, output, complaints, table, scratch, part):
    """Fill output [n, R, R, 3], and complaints [n] with where libjpeg-turbo had an error or a warning.

    `scratch` has room for the largest image and `part` for the largest JPEG.
    """
    for i in range(len(offsets)):
        left, top, width, height = boxes[i]
        if modes[i] == JPEG:
            blob = file[offsets[i]:offsets[i] + sizes[i]]
            turbo = _init_turbo()   # anew: else an image without tables of its own gets those of the one before
            x, y, decoded_width, complains = _decode(turbo, blob, widths[i], heights[i], boxes[i], part, scratch)
            _destroy_turbo(turbo)
            complaints[i] = complains
            stride = decoded_width * 3
            _resize(scratch, (top - y) * stride + (left - x) * 3, stride, width, height, flips[i], table, output[i])
        else:
            stride = widths[i] * 3
            _resize(file, offsets[i] + top * stride + left * 3, stride, width, height, flips[i], table, output[i])


@_compiled
def _decode(turbo, blob, width, height, box, part, scratch):
    """Decode the box, or more around it, to scratch. Gives left, top and width of what was decoded, and whether
    libjpeg-turbo complains."""
    x, y, part_width, part_height, size = _cut_out(blob, width, height, box, part)
    if size and _decompress(turbo, part.ctypes.data, size, scratch.ctypes.data, part_width, 0, part_height, 0, _ACCURATE) == 0:
        return x, y, part_width, False
    # No index, or something is wrong: what libjpeg-turbo says about the whole counts.
    says = np.zeros(4, np.int32)
    at = says.ctypes.data
    if _read_header(turbo, blob.ctypes.data, len(blob), at, at + 4, at + 8, at + 12) != 0 \
            or says[0] != width or says[1] != height:
        return 0, 0, width, True
    failed = _decompress(turbo, blob.ctypes.data, len(blob), scratch.ctypes.data, width, 0, height, 0, _ACCURATE)
    return 0, 0, width, failed != 0


@_compiled
def _cut_out(blob, width, height, box, part):
    """Put the segments under the box together as a JPEG in `part`. Gives its left, top, width and height in pixels and
    its bytes; all 0 where the blob has no index that fits it."""
    none = (0, 0, 0, 0, 0)
    footer = len(blob) - _FOOTER_SIZE
    if footer < 0 or _u32(blob, footer + 20) != _MAGIC_HALVES[0] or _u32(blob, footer + 24) != _MAGIC_HALVES[1]:
        return none
    num_segments, frame, scan = _u32(blob, footer), _u32(blob, footer + 4), _u32(blob, footer + 8)
    interval, version, checksum = _u16(blob, footer + 12), _u16(blob, footer + 14), _u32(blob, footer + 16)
    table = footer - 2 * num_segments
    if version != VERSION or table < scan or scan > MAX_HEADER or interval == 0 or frame + 10 > scan \
            or _crc32(blob, table, footer + 16, _crc32(blob, 0, scan, 0)) != checksum:
        return none

    # The frame: FF C0, u16 length, 8, u16 height, u16 width, components; of each an id, factors and a table's number.
    num_components = np.int64(blob[frame + 9])
    if not (num_components == 1 or num_components == 3) or frame + 10 + 3 * num_components > scan \
            or 256 * blob[frame + 5] + blob[frame + 6] != height or 256 * blob[frame + 7] + blob[frame + 8] != width:
        return none
    across, down = np.int64(1), np.int64(1)
    if num_components == 3:     # a scan of one component has MCUs of one block, whatever its factors
        for k in range(3):
            factors = np.int64(blob[frame + 11 + 3 * k])
            across, down = max(across, factors >> 4), max(down, factors & 15)
    mcus_per_row, num_rows = -(-width // (8 * across)), -(-height // (8 * down))
    if mcus_per_row % interval or num_segments * interval != mcus_per_row * num_rows:
        return none

    left, top, box_width, box_height = box
    segment_width, segment_height, per_row = 8 * across * interval, 8 * down, mcus_per_row // interval
    first, last = max(left - _MARGIN, 0) // segment_width, min((left + box_width + _MARGIN - 1) // segment_width, per_row - 1)
    if first and min((last + 1) * segment_width, width) - first * segment_width < _LEAST_WIDTH:
        first -= 1
    first_row = max(top - _MARGIN, 0) // segment_height
    last_row = min((top + box_height + _MARGIN - 1) // segment_height, num_rows - 1)
    x, y = first * segment_width, first_row * segment_height
    part_width, part_height = min((last + 1) * segment_width, width) - x, min((last_row + 1) * segment_height, height) - y

    _copy(blob, 0, scan, part, 0)
    part[frame + 5], part[frame + 6] = part_height >> 8, part_height & 255
    part[frame + 7], part[frame + 8] = part_width >> 8, part_width & 255
    begin, size, copied = scan, scan, 0
    for number in range(num_segments):
        end = begin + _u16(blob, table + 2 * number)
        row, column = number // per_row, number % per_row
        if row > last_row:
            break
        if row >= first_row and first <= column <= last:
            marker = 0xD9 if number == num_segments - 1 else 0xD0 + number % 8
            if end < begin + 2 or end > table or blob[end - 2] != 0xFF or blob[end - 1] != marker:
                return none
            _copy(blob, begin, end, part, size)
            size += end - begin
            part[size - 1] = 0xD0 + copied % 8
            copied += 1
        begin = end
    part[size - 1] = 0xD9
    return x, y, part_width, part_height, size


@_compiled
def _u16(blob, at):
    return np.int64(blob[at]) | np.int64(blob[at + 1]) << 8


@_compiled
def _u32(blob, at):
    return _u16(blob, at) | _u16(blob, at + 2) << 16


@_compiled
def _crc32(content, begin, end, crc):
    """As zlib.crc32(content[begin:end], crc)."""
    crc = np.uint32(crc) ^ np.uint32(0xFFFFFFFF)
    for i in range(begin, end):
        crc = _CRC_TABLE[(crc ^ np.uint32(content[i])) & np.uint32(255)] ^ (crc >> np.uint32(8))
    return np.int64(crc ^ np.uint32(0xFFFFFFFF))


@_compiled
def _copy(source, begin, end, target, at):
    """target[at:] = source[begin:end]: the assignment itself takes seconds to compile."""
    for i in range(end - begin):
        target[at + i] = source[begin + i]


@_compiled
def _taps(source, target):
    """Along one axis: for each output pixel its first source pixel, how many count, and their shares, padded with 0.

    Shrinking: the overlap of [i, i + 1) * source / target with each source pixel, counted in whole units of 1 / target
    of a source pixel. Enlarging: linear between the two nearest centres, the border repeated.
    """
    starts, counts = np.empty(target, np.int32), np.empty(target, np.int32)
    shares = np.zeros((target, max(_TAPS_WRITTEN_OUT, source // target + 2)), np.float32)
    for i in range(target):
        if source > target:
            begin, end = i * source, (i + 1) * source
            first, last = begin // target, (end - 1) // target
            starts[i], counts[i] = first, last - first + 1
            for k in range(last - first + 1):
                overlap = min(end, (first + k + 1) * target) - max(begin, (first + k) * target)
                shares[i, k] = overlap / source
        else:
            center = min(max((i + 0.5) * source / target - 0.5, 0.0), source - 1.0)
            first = min(int(center), max(source - 2, 0))
            starts[i], counts[i] = first, min(source, 2)
            shares[i, 0], shares[i, 1] = 1.0 - (center - first), center - first
    return starts, counts, shares


@_compiled
def _resize(pixels, origin, stride, width, height, flip, table, output):
    """The box of `width` x `height` pixels from byte `origin` on, its rows `stride` bytes apart -> output [R, R, 3]: levels,
    or what the table has for them."""
    y_starts, y_counts, y_shares = _taps(height, output.shape[0])
    x_starts, _, x_shares = _taps(width, output.shape[1])
    if flip:
        x_starts, x_shares = x_starts[::-1].copy(), x_shares[::-1].copy()
    line = np.zeros((width + x_shares.shape[1]) * 3, np.float32)    # an output row as wide as the box, and padding
    result = np.empty(output.shape[1] * 3, np.float32)
    for y in range(output.shape[0]):
        _sum_rows(pixels, origin + y_starts[y] * stride, stride, y_counts[y], y_shares[y], line[:width * 3])
        _sum_columns(line, x_starts, x_shares, result)
        target = output[y].reshape(-1)
        if len(table):
            for i in range(len(target)):
                target[i] = table[i % 3, np.uint8(np.int32(result[i]))]
        else:
            for i in range(len(target)):
                target[i] = np.uint8(np.int32(result[i]))


@_compiled
def _sum_rows(pixels, origin, stride, count, shares, line):
    """line[i] = the sum over k of shares[k] * pixels[origin + k * stride + i]. Vectorised by the compiler."""
    row = pixels[origin:origin + len(line)]
    for i in range(len(line)):
        line[i] = shares[0] * np.float32(row[i])
    for k in range(1, count):
        row, share = pixels[origin + k * stride:origin + k * stride + len(line)], shares[k]
        for i in range(len(line)):
            line[i] += share * np.float32(row[i])


@_compiled
def _sum_columns(line, starts, shares, result):
    """Each output pixel's weighted sum over `line`, plus the 0.5 that makes truncation a rounding.

    Three taps written out serve every box of less than twice R, and are 1.5 times as fast as the loop. Indices are
    unsigned because numba otherwise looks at each one for being negative.
    """
    half, one, two, three = np.float32(0.5), np.uint32(1), np.uint32(2), np.uint32(3)
    for x in range(len(starts)):
        i, target = np.uint32(starts[x]) * three, np.uint32(x) * three
        first, second, third = shares[x, 0], shares[x, 1], shares[x, 2]
        red = half + first * line[i] + second * line[i + three] + third * line[i + np.uint32(6)]
        green = half + first * line[i + one] + second * line[i + np.uint32(4)] + third * line[i + np.uint32(7)]
        blue = half + first * line[i + two] + second * line[i + np.uint32(5)] + third * line[i + np.uint32(8)]
        for k in range(_TAPS_WRITTEN_OUT, shares.shape[1]):
            j, share = i + np.uint32(k) * three, shares[x, k]
            red += share * line[j]
            green += share * line[j + one]
            blue += share * line[j + two]
        result[target], result[target + one], result[target + two] = red, green, blue
