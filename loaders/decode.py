"""Decode, crop, resize and flip a batch in one pass from the mapped file into the batch's memory.

`BatchDecoder.decode` cuts the batch into short runs for a few threads; each run is one call of `_decode_images`, a
numba kernel that holds no Python lock. FFCV's own `imdecode` (libjpeg-turbo) fills a scratch image that belongs to the
call; raw images are read where they lie in the file. The resize averages exactly the area under each output pixel when
it shrinks and is bilinear when it enlarges, each axis on its own.

Threads of Python rather than numba's parallel loops: numba's thread pool must not be entered by two loaders at once
with every threading layer, does not survive a fork, and takes seconds more to compile.
"""

import ctypes
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding
from numba import njit, types

from loaders.augment import Crops
from loaders.reader import Samples
from writers.encode import JPEG

_SYMBOL = "harness_ffcv_imdecode"
_RUNS_PER_THREAD = 4        # more: better balance between large and small images; fewer: less work between the runs
_TAPS_WRITTEN_OUT = 3       # in _sum_columns
_HARMLESS = "extraneous bytes before marker"    # all pixels are there; some cameras write such files

# A ctypes function would be a pointer inside the compiled code, which numba then refuses to cache on disk. By name, the
# address is looked up again in every process. The C function: `int imdecode(...)` in FFCV's libffcv.cpp.
_imdecode: Any = types.ExternalFunction(_SYMBOL, types.int32(
    types.uintp, types.uint64, types.uint32, types.uint32,              # JPEG, its bytes; height and width of the image
    types.uintp, types.uint32, types.uint32, types.uint32, types.uint32,    # target; height, width, x, y of a crop
    types.uint32, types.uint32, types.uint8, types.uint8))              # scale numerator, denominator; use crop; flip


class BatchDecoder:
    """Fills batches from one beton with `num_threads` threads."""

    def __init__(self, samples: Samples, num_threads: int, library: Path) -> None:
        """`library`: the shared object that holds FFCV's imdecode."""
        self._library = ctypes.CDLL(str(library))
        binding.add_symbol(_SYMBOL, ctypes.cast(self._library.imdecode, ctypes.c_void_p).value)
        with samples.path.open("rb") as file:
            self._file = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        self._samples = samples
        self._num_threads = num_threads
        self._threads = ThreadPoolExecutor(num_threads, "harness-decode") if num_threads > 1 else None

    def decode(self, positions: np.ndarray, crops: Crops, output: np.ndarray) -> None:
        """Fill `output` (uint8 [B, R, R, 3]) with the samples at `positions` (int64 [B]).

        Raises UserError, naming sample and file, for one that is not a whole JPEG.
        """
        assert len(self._file), "the loader is closed"
        samples = self._samples
        complaints = np.zeros(len(positions), bool)
        columns = (samples.offsets[positions], samples.sizes[positions], samples.modes[positions],
                   samples.widths[positions], samples.heights[positions], crops.boxes, crops.flips, output, complaints)

        def decode_run(run: slice) -> None:
            _decode_images(self._file, *(column[run] for column in columns))

        if self._threads is None:
            decode_run(slice(None))
        else:
            length = max(1, -(-len(positions) // (self._num_threads * _RUNS_PER_THREAD)))
            runs = [slice(start, start + length) for start in range(0, len(positions), length)]
            list(self._threads.map(decode_run, runs))
        for position in positions[complaints].tolist():
            if _HARMLESS not in (why := self._complaint(position)):
                raise samples.damaged(position, why)

    def _complaint(self, position: int) -> str:
        """What libjpeg-turbo says about a JPEG. FFCV's imdecode returns the same -1 for each error and each warning."""
        begin, size = int(self._samples.offsets[position]), int(self._samples.sizes[position])
        width, height = int(self._samples.widths[position]), int(self._samples.heights[position])
        blob, pixels = self._file[begin:begin + size].tobytes(), ctypes.create_string_buffer(width * height * 3)
        turbo = self._library       # a symbol of libturbojpeg is found through the library that is linked to it
        turbo.tjInitDecompress.restype = ctypes.c_void_p
        turbo.tjGetErrorStr2.restype = ctypes.c_char_p
        handle = ctypes.c_void_p(turbo.tjInitDecompress())
        turbo.tjDecompress2(handle, blob, ctypes.c_ulong(size), pixels, width, 0, height, 0, 0)
        why = turbo.tjGetErrorStr2(handle).decode()
        turbo.tjDestroy(handle)
        return why

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._file = np.empty(0, np.uint8)


def _compiled(function: Callable) -> Callable:
    """njit, kept on disk for the next process where some folder for it can be written (numba looks for one)."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:    # "no locator available": every process compiles for itself
        return njit(**options)(function)


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
def _resize(pixels, origin, stride, width, height, flip, output):
    """The box of `width` x `height` pixels from byte `origin` on, its rows `stride` bytes apart -> output [R, R, 3]."""
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


@_compiled
def _decode_images(file, offsets, sizes, modes, widths, heights, boxes, flips, output, complaints):
    """Fill output [n, R, R, 3], and complaints [n] with where libjpeg-turbo had an error or a warning."""
    scratch_size = 0
    for i in range(len(offsets)):
        if modes[i] == JPEG:
            scratch_size = max(scratch_size, widths[i] * heights[i] * 3)
    scratch = np.empty(scratch_size, np.uint8)
    for i in range(len(offsets)):
        left, top, width, height = boxes[i]
        stride = widths[i] * 3
        inside = top * stride + left * 3
        if modes[i] == JPEG:
            complaints[i] = _imdecode(file.ctypes.data + offsets[i], sizes[i], heights[i], widths[i],
                                      scratch.ctypes.data, heights[i], widths[i], 0, 0, 1, 1, 0, 0) != 0
            _resize(scratch, inside, stride, width, height, flips[i], output[i])
        else:
            _resize(file, offsets[i] + inside, stride, width, height, flips[i], output[i])
