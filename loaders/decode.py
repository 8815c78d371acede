"""Decode, crop, resize and flip a batch in one pass from the mapped file into the batch's memory.

`BatchDecoder.decode` cuts the batch into short runs for a few threads; each run is one call of `_decode_images`, a numba
kernel that holds no Python lock. FFCV's own `imdecode` (libjpeg-turbo) fills a scratch image that belongs to the call; raw
images are read where they lie in the file. The resize averages exactly the area under each output pixel when it shrinks and
is bilinear when it enlarges, each axis on its own.

Threads of Python rather than numba's parallel loops: numba's thread pool must not be entered by two loaders at once with
every threading layer, does not survive a fork, and takes seconds more to compile.
"""

import ctypes
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from llvmlite import binding
from numba import njit, types

from loaders.augment import Crops
from loaders.reader import Samples

_SYMBOL = "harness_ffcv_imdecode"
_RUNS_PER_THREAD = 4        # more: better balance between large and small images; fewer: less work between the runs
_JPEG = 0                   # the mode of a sample in a beton; 1 is raw

# A ctypes function would be a pointer inside the compiled code, which numba then refuses to cache on disk. By name, the
# address is looked up again in every process. The C function: `int imdecode(...)` in FFCV's libffcv.cpp.
_imdecode = types.ExternalFunction(_SYMBOL, types.int32(
    types.uintp, types.uint64, types.uint32, types.uint32,              # JPEG, its bytes; height and width of the image
    types.uintp, types.uint32, types.uint32, types.uint32, types.uint32,    # target; height, width, x, y of a crop
    types.uint32, types.uint32, types.uint8, types.uint8))              # scale numerator, denominator; use crop; flip


class BatchDecoder:
    """Fills batches from one beton with `num_threads` threads."""

    def __init__(self, samples: Samples, num_threads: int, library: Path) -> None:
        """`library`: the shared object that holds FFCV's imdecode."""
        binding.add_symbol(_SYMBOL, ctypes.cast(ctypes.CDLL(str(library)).imdecode, ctypes.c_void_p).value)
        with samples.path.open("rb") as file:
            self._file = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        self._samples = samples
        self._num_threads = num_threads
        self._threads = ThreadPoolExecutor(num_threads, "harness-decode") if num_threads > 1 else None

    def decode(self, positions: np.ndarray, crops: Crops, output: np.ndarray) -> None:
        """Fill `output` (uint8 [B, R, R, 3]) with the samples at `positions` (int64 [B]).

        Raises UserError, naming sample and file, for one that is not a whole JPEG.
        """
        samples = self._samples
        columns = (samples.offsets[positions], samples.sizes[positions], samples.modes[positions],
                   samples.widths[positions], samples.heights[positions], crops.boxes, crops.flips)

        def decode_run(run: slice) -> int:
            failed = _decode_images(self._file, *(column[run] for column in columns), output[run])
            return run.start + failed if failed >= 0 else -1

        if self._threads is None:
            results = [decode_run(slice(0, len(positions)))]
        else:
            length = max(1, -(-len(positions) // (self._num_threads * _RUNS_PER_THREAD)))
            runs = [slice(start, start + length) for start in range(0, len(positions), length)]
            results = list(self._threads.map(decode_run, runs))
        failures = [failed for failed in results if failed >= 0]
        if failures:
            raise samples.damaged(int(positions[failures[0]]))

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._file = np.empty(0, np.uint8)


def _compiled(function: Callable) -> Callable:
    """njit, kept on disk for the next process where some folder for it can be written (numba looks for one)."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:    # "no locator available": every process compiles for itself
        return njit(**options)(function)


@_compiled
def _fill_taps(source, target, starts, counts, weights):
    """Which source pixels make each output pixel along one axis, and their shares.

    Shrinking: the overlap of [i, i + 1) * source / target with each source pixel, counted in whole units of 1 / target of a
    source pixel. Enlarging: linear between the two nearest centres, the border repeated.
    """
    for i in range(target):
        if source > target:
            begin, end = i * source, (i + 1) * source
            first, last = begin // target, (end - 1) // target
            starts[i], counts[i] = first, last - first + 1
            for k in range(last - first + 1):
                overlap = min(end, (first + k + 1) * target) - max(begin, (first + k) * target)
                weights[i, k] = np.float32(overlap / source)
        else:
            center = min(max((i + 0.5) * source / target - 0.5, 0.0), source - 1.0)
            first = min(int(center), max(source - 2, 0))
            starts[i] = first
            counts[i] = min(source, 2)
            weights[i, 0] = np.float32(1.0 - (center - first))
            weights[i, 1] = np.float32(center - first)


@_compiled
def _resize(pixels, origin, stride, width, height, flip, output):
    """Resize the box of `width` x `height` pixels whose first byte is pixels[origin], rows `stride` bytes apart, to output."""
    rows, columns = output.shape[0], output.shape[1]
    x_starts, x_counts = np.empty(columns, np.int32), np.empty(columns, np.int32)
    x_weights = np.empty((columns, width // columns + 2), np.float32)
    y_starts, y_counts = np.empty(rows, np.int32), np.empty(rows, np.int32)
    y_weights = np.empty((rows, height // rows + 2), np.float32)
    _fill_taps(width, columns, x_starts, x_counts, x_weights)
    _fill_taps(height, rows, y_starts, y_counts, y_weights)

    line = np.empty(width * 3, np.float32)      # one output row, still as wide as the box
    for y in range(rows):
        first = origin + y_starts[y] * stride
        row, weight = pixels[first:first + width * 3], y_weights[y, 0]
        for i in range(width * 3):
            line[i] = weight * row[i]
        for k in range(1, y_counts[y]):
            row, weight = pixels[first + k * stride:first + k * stride + width * 3], y_weights[y, k]
            for i in range(width * 3):
                line[i] += weight * row[i]
        for x in range(columns):
            red, green, blue = np.float32(0.5), np.float32(0.5), np.float32(0.5)    # 0.5: to round, not to truncate
            for k in range(x_counts[x]):
                weight, i = x_weights[x, k], (x_starts[x] + k) * 3
                red += weight * line[i]
                green += weight * line[i + 1]
                blue += weight * line[i + 2]
            target = columns - 1 - x if flip else x
            output[y, target, 0] = np.uint8(red)
            output[y, target, 1] = np.uint8(green)
            output[y, target, 2] = np.uint8(blue)


@_compiled
def _decode_images(file, offsets, sizes, modes, widths, heights, boxes, flips, output):
    """Fill output [n, R, R, 3]; the index of the first image that does not decode, or -1."""
    scratch_size = 0
    for i in range(len(offsets)):
        if modes[i] == _JPEG:
            scratch_size = max(scratch_size, widths[i] * heights[i] * 3)
    scratch = np.empty(scratch_size, np.uint8)
    for i in range(len(offsets)):
        left, top, width, height = boxes[i]
        stride = widths[i] * 3
        inside = top * stride + left * 3
        if modes[i] == _JPEG:
            # Not 0 also where libjpeg only warns: then it has made up pixels.
            if _imdecode(file.ctypes.data + offsets[i], sizes[i], heights[i], widths[i], scratch.ctypes.data,
                         heights[i], widths[i], 0, 0, 1, 1, 0, 0) != 0:
                return i
            _resize(scratch, inside, stride, width, height, flips[i], output[i])
        else:
            _resize(file, offsets[i] + inside, stride, width, height, flips[i], output[i])
    return -1
