# mypy: disable-error-code="no-untyped-def"
"""Decode with numba and FFCV's libjpeg-turbo; the kernel for installations without the C kernel.

`decode_run` decodes a run of images without the GIL. If a JPEG has a restart index
(writers/jpeg/restart_index.py), the segments under the crop are assembled into a small JPEG, which
decodes to the same pixels as the whole image.

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
from numba import njit, types

from loaders.entropy_numba import SCRATCH_SIZE, is_exact
from loaders.interpolation import Interpolation, number_of
from writers.beton.encoding import JPEG
from writers.jpeg import turbojpeg
from writers.jpeg.restart_index import FOOTER, MAGIC, MAX_HEADER, VERSION

_TAPS_WRITTEN_OUT = 3  # in _sum_columns
_ONE, _ROUND_ACROSS, _ROUND_DOWN = 2**14, 7, 21  # as in native/stages.h
_HALF_ACROSS, _HALF_DOWN = 2 ** (_ROUND_ACROSS - 1), 2 ** (_ROUND_DOWN - 1)
_MOST_ACROSS = 255 * 128  # likewise
_MARGIN = 2  # pixels around the crop from which its chroma is interpolated
_MIN_WIDTH = 5  # pixels; libjpeg does not interpolate chroma of narrower images
_FOOTER_SIZE = FOOTER.itemsize
_MAGIC_HALVES = int.from_bytes(MAGIC[:4], "little"), int.from_bytes(MAGIC[4:], "little")
_ACCURATE = 4096  # TJFLAG_ACCURATEDCT: the pixels that Pillow and torchvision decode

# A ctypes function would be a pointer inside the compiled code, which numba refuses to cache on
# disk. A name is resolved again in every process. Pointers are int64 here, to allow pointer
# arithmetic.
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
_memcpy: Any = types.ExternalFunction("memcpy", types.int64(types.int64, types.int64, types.int64))


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
        # No image is decoded from 0 bytes, so these are damaged; their boxes must fit the scratch.
        rows[is_jpeg & (widths * heights > turbojpeg.MAX_PIXELS), 1:9] = 0, 1, 1, 1, 0, 0, 1, 1
        num_pixels = np.max(rows[:, 3] * rows[:, 4], where=is_jpeg, initial=0)
        scratch = np.empty(3 * int(num_pixels), np.uint8)
        # Read-only like the mapped file, so that numba compiles one version for both.
        # libjpeg-turbo writes to it by address.
        scratch.flags.writeable = False
        part, header_fields = (
            np.empty(np.max(sizes, where=is_jpeg, initial=0), np.uint8),
            np.empty(4, np.int32),
        )
        addresses = np.array([array.ctypes.data for array in (file, part, scratch, header_fields)])

        n, resolution = output.shape[:2]
        widest, highest = int(boxes[:, 2].max(initial=1)), int(boxes[:, 3].max(initial=1))
        kind = number_of(interpolation)
        x_taps, y_taps = (_num_taps.py_func(side, resolution, kind) for side in (widest, highest))
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

    The compiled code only detects that there is a warning.
    """
    try:
        pixels = turbojpeg.decode_rgb(jpeg)
    except turbojpeg.JpegError:
        return True
    return pixels is None or pixels.shape != shape


def _compiled(function: Callable[..., Any]) -> Any:
    """Apply njit, with the on-disk cache if numba finds a writable cache folder."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available": every process compiles for itself
        return njit(**options)(function)


def _helper(function: Callable[..., Any]) -> Any:
    """Apply njit to a helper of a _compiled function, which is cached with it."""
    options: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(nogil=True, error_model="numpy", **options)(function)


def _crc_table() -> np.ndarray:
    """CRC-32 of each byte (zlib polynomial), uint32 [256]."""
    words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        words = np.where(words & 1, (words >> 1) ^ np.uint32(0xEDB88320), words >> 1).astype(
            np.uint32
        )
    return words


_CRC_TABLE = _crc_table()


@_compiled
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

    `rows` is int64 [n, 10]: offset and size in the file, whether it is a JPEG, width and height;
    left, top, width and height of the box; and whether to flip. The other arguments are scratch
    memory: `part` for the largest JPEG, `scratch` for its pixels, `header_fields` for the output of
    tjDecompressHeader3, `addresses` of file, part, scratch and header_fields; the rest is for
    _resize. `kind`: number of the interpolation. `codes`: scratch of is_exact.
    """
    for i in range(len(rows)):
        offset, size, is_jpeg, width, height = (
            rows[i, 0],
            rows[i, 1],
            rows[i, 2],
            rows[i, 3],
            rows[i, 4],
        )
        left, top, box_width, box_height, flip = (
            rows[i, 5],
            rows[i, 6],
            rows[i, 7],
            rows[i, 8],
            rows[i, 9],
        )
        if is_jpeg:
            # A new decoder: otherwise an image without tables would use those of the previous one.
            turbo = _init_turbo()
            x, y, stride, has_error[i] = _decode(
                turbo,
                file,
                offset,
                size,
                width,
                height,
                left,
                top,
                box_width,
                box_height,
                part,
                header_fields,
                addresses,
                codes,
            )
            _destroy_turbo(turbo)
            _resize(
                scratch,
                (top - y) * stride + (left - x) * 3,
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
        else:
            stride = width * 3
            _resize(
                file,
                offset + top * stride + left * 3,
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


@_helper
def _decode(
    turbo,
    file,
    offset,
    size,
    width,
    height,
    left,
    top,
    box_width,
    box_height,
    part,
    header_fields,
    addresses,
    codes,
):
    """Decode the box, or an area around it, to scratch.

    Returns left, top and bytes per row of the decoded area, and whether libjpeg-turbo had an error
    or a warning.
    """
    source, target, pixels, at = addresses[0] + offset, addresses[1], addresses[2], addresses[3]
    x, y, part_width, part_height, part_size, header_size = _cut_out(
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
    header_fields[0] = 0  # a header with a warning is read all the same
    _read_header(turbo, source, size, at, at + 4, at + 8, at + 12)
    if header_fields[0] != width or header_fields[1] != height:
        return 0, 0, width * 3, True
    failed = _decompress(turbo, source, size, pixels, width, 0, height, 0, _ACCURATE)
    return 0, 0, width * 3, failed != 0


@_helper
def _cut_out(
    file, offset, size, width, height, left, top, box_width, box_height, part, source, target
):
    """Assemble the segments under the box into a JPEG in `part`.

    Returns left, top, width and height of the part in pixels, its bytes and those of its header;
    all 0 if the JPEG has no valid index. `source` and `target` are the addresses of the JPEG and of
    `part`.
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

    # The frame: FF C0, u16 length, 8, u16 height, u16 width, components; of each an id, factors and
    # a table's number.
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


@_helper
def _u32(file, at):
    return (
        np.int64(file[at])
        | np.int64(file[at + 1]) << 8
        | np.int64(file[at + 2]) << 16
        | np.int64(file[at + 3]) << 24
    )


@_helper
def _crc32(file, begin, scan, table, checksum):
    """Compute zlib.crc32(file[begin:scan] + file[table:checksum])."""
    crc, at = np.uint32(0xFFFFFFFF), begin
    while at < checksum:
        crc = _CRC_TABLE[(crc ^ np.uint32(file[at])) & np.uint32(255)] ^ (crc >> np.uint32(8))
        at += 1
        if at == scan:
            at = table
    return np.int64(crc ^ np.uint32(0xFFFFFFFF))


@_helper
def _num_taps(source, target, kind):
    """Maximal number of source pixels of an output pixel."""
    if kind:
        return max(_TAPS_WRITTEN_OUT, 2 * kind * max(source, target) // target + 1)
    return max(_TAPS_WRITTEN_OUT, source // target + 2)


@_helper
def _filter_weight(kind, distance, unit):
    """Return filter_weight of native/resize.c."""
    if kind == 1:
        return max(unit - distance, 0)
    one = np.int64(1 << 14)
    t = (distance * one + unit // 2) // unit
    if t < one:
        return ((3 * t - 5 * one) * t * t + 2 * one * one * one) >> 19
    if t < 2 * one:
        return ((5 * one - t) * t * t - 8 * one * one * t + 4 * one * one * one) >> 19
    return np.int64(0)


@_helper
def _taps(i, source, target, num_taps, shares, at, kind):
    """Return the first source pixel of output pixel i along one axis, and the number of taps.

    Weights, zero-padded, are written to shares[at:]. native/weights.c (fill_weights) has the
    equations: integers that sum to 2^14.
    """
    for k in range(num_taps):
        shares[at + k] = 0
    if kind:
        unit, center = 2 * max(source, target), (2 * i + 1) * source
        reach, total, given = kind * unit, np.int64(0), 0
        first = max(0, (center - reach - target) // (2 * target) + 1)
        last = min(source - 1, -((-(center + reach - target)) // (2 * target)) - 1)
        for k in range(first, last + 1):
            total += _filter_weight(kind, abs((2 * k + 1) * target - center), unit)
        so_far = np.int64(0)
        for k in range(first, last + 1):
            so_far += _filter_weight(kind, abs((2 * k + 1) * target - center), unit)
            rounded = (2 * _ONE * so_far + total) // (2 * total)
            shares[at + k - first] = rounded - given
            given = rounded
        return first, last - first + 1
    if source > target:
        begin, end, given = i * source, (i + 1) * source, 0
        first, last = begin // target, (end - 1) // target
        for k in range(last - first + 1):
            covered = min(end, (first + k + 1) * target) - begin
            total = (covered * _ONE + source // 2) // source
            shares[at + k] = total - given
            given = total
        return first, last - first + 1
    center = max(0, min((2 * i + 1) * source - target, 2 * target * (source - 1)))
    first = min(center // (2 * target), max(source - 2, 0))
    second = ((center - first * 2 * target) * _ONE + target) // (2 * target)
    shares[at], shares[at + 1] = _ONE - second, second
    return first, min(source, 2)


@_helper
def _resize(
    pixels,
    origin,
    stride,
    width,
    height,
    flip,
    table,
    output,
    starts,
    shares,
    line,
    ring,
    result,
    kind,
):
    """Resize a box to output [R * R * 3]: levels, or the table's values for them.

    The box has `width` x `height` pixels from byte `origin` on; its rows are `stride` bytes apart.
    Scratch memory: `starts` [R] and `shares` hold the first pixel and the weights of each output
    column, then the weights of a row; `line` a padded row of the box; `ring` the resized rows that
    are still needed; `result` an output row.
    """
    resolution = len(starts)
    x_taps, y_taps = _num_taps(width, resolution, kind), _num_taps(height, resolution, kind)
    for x in range(resolution):
        place = resolution - 1 - x if flip else x
        starts[place] = _taps(x, width, resolution, x_taps, shares, place * x_taps, kind)[0]
    x_shares, y_shares, done = shares[: resolution * x_taps], shares[resolution * x_taps :], 0
    for y in range(resolution):
        first, count = _taps(y, height, resolution, y_taps, shares, resolution * x_taps, kind)
        while done < first + count:
            _memcpy_row(pixels, origin + done * stride, line, width * 3)
            _sum_columns(line, starts, x_shares, np.uint64(x_taps), ring[done % y_taps])
            done += 1
        _sum_rows(ring, first, count, y_taps, y_shares, result)
        target = output[y * len(result) : (y + 1) * len(result)]
        if len(table):
            for i in range(len(target)):
                target[i] = table[i % 3, np.uint8(result[i])]
        else:
            for i in range(len(target)):
                target[i] = np.uint8(result[i])


@_helper
def _memcpy_row(pixels, begin, line, size):
    """Copy a row of the box to padded memory, so that reads after its end are valid."""
    row = pixels[begin : begin + size]
    for i in range(size):
        line[i] = row[i]


@_helper
def _sum_rows(ring, first, count, num_rows, shares, result):
    """Compute result[i] = sum over k of shares[k] * ring[first + k, i], rounded to levels.

    The compiler vectorizes it.
    """
    row, share = ring[first % num_rows], shares[0]
    for i in range(len(result)):
        result[i] = np.int32(_HALF_DOWN) + share * row[i]
    for k in range(1, count):
        row, share = ring[(first + k) % num_rows], shares[k]
        for i in range(len(result)):
            result[i] += share * row[i]
    for i in range(len(result)):
        result[i] = min(max(result[i] >> _ROUND_DOWN, 0), 255)


@_helper
def _sum_columns(line, starts, shares, num_taps, result):
    """Compute each output pixel's weighted sum over `line`, in units of 1 / 128 level.

    Three unrolled taps serve every box narrower than 2 R and are 1.5 times as fast as the loop.
    Indices are unsigned because numba otherwise checks each one for being negative.
    """
    half, one, two, three = np.int32(_HALF_ACROSS), np.uint64(1), np.uint64(2), np.uint64(3)
    for x in range(len(starts)):
        i, target, at = starts[x] * three, np.uint64(x) * three, np.uint64(x) * num_taps
        first, second, third = shares[at], shares[at + one], shares[at + two]
        red = half + first * line[i] + second * line[i + three] + third * line[i + np.uint64(6)]
        green = (
            half
            + first * line[i + one]
            + second * line[i + np.uint64(4)]
            + third * line[i + np.uint64(7)]
        )
        blue = (
            half
            + first * line[i + two]
            + second * line[i + np.uint64(5)]
            + third * line[i + np.uint64(8)]
        )
        for k in range(np.uint64(_TAPS_WRITTEN_OUT), num_taps):
            j, share = i + k * three, shares[at + k]
            red += share * line[j]
            green += share * line[j + one]
            blue += share * line[j + two]
        result[target], result[target + one], result[target + two] = (
            min(max(red >> _ROUND_ACROSS, 0), _MOST_ACROSS),
            min(max(green >> _ROUND_ACROSS, 0), _MOST_ACROSS),
            min(max(blue >> _ROUND_ACROSS, 0), _MOST_ACROSS),
        )
