"""Shrink images as resize.c does, in numba; used if the C library was not built."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
# Sum of an output pixel's weights along an axis. A weighted sum fits in 32 bits: 8 bits of the
# pixel value, and 12 bits of weight for each of two axes.
_ONE = 1 << 12


def shrink_into(
    output: np.ndarray, pixels: np.ndarray, step_x: tuple[int, int], step_y: tuple[int, int]
) -> None:
    """Shrink an image; `writers.jpeg.resize.shrink_into` describes the arguments."""
    _shrink(output, np.ascontiguousarray(pixels), *step_x, *step_y)


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile by njit, with a cache on disk if its folder is writable."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # "no locator available": each process compiles
        return njit(**options)(function)


@_compiled
def _shares(source: int, target: int, numerator: int, denominator: int) -> _Arrays:
    """Compute the source pixels of each output pixel along an axis, and their weights.

    `source` and `target` are numbers of pixels; an output pixel covers numerator / denominator
    source pixels. Returns the first source pixel (int64 [target]), the number of source pixels
    (int64 [target]), and their weights (uint32 [target, most source pixels], rows sum to _ONE).
    """
    starts, counts = np.empty(target, np.int64), np.empty(target, np.int64)
    shares = np.zeros((target, max(3, numerator // denominator + 2)), np.uint32)
    for i in range(target):
        # begin and end in units of 1 / denominator of a source pixel
        begin, end = i * numerator, (i + 1) * numerator
        first = min(begin // denominator, source - 1)
        last = min((end - 1) // denominator, source - 1)
        starts[i], counts[i] = first, last - first + 1
        # Round cumulative sums: the weights then add up to _ONE, and each is off by at most one.
        previous = 0
        for k in range(last - first + 1):
            covered = end if first + k == last else min(end, (first + k + 1) * denominator)
            total = ((covered - begin) * _ONE + numerator // 2) // numerator
            shares[i, k] = total - previous
            previous = total
    return starts, counts, shares


@_compiled
def _shrink(
    output: np.ndarray,
    pixels: np.ndarray,
    x_numerator: int,
    x_denominator: int,
    y_numerator: int,
    y_denominator: int,
) -> None:
    channels = pixels.shape[2]
    y_starts, y_counts, y_shares = _shares(
        pixels.shape[0], output.shape[0], y_numerator, y_denominator
    )
    x_starts, x_counts, x_shares = _shares(
        pixels.shape[1], output.shape[1], x_numerator, x_denominator
    )
    # Weighted sum of the source rows of one output row: as wide as the source, followed by zeros.
    line = np.zeros((pixels.shape[1] + x_shares.shape[1]) * channels, np.uint32)
    for y in range(output.shape[0]):
        for k in range(y_counts[y]):
            _add_row(line, pixels[y_starts[y] + k].reshape(-1), y_shares[y, k], k == 0)
        if x_shares.shape[1] == 3:
            _sum_columns_of_three(output[y], line, x_starts, x_shares)
        else:
            _sum_columns(output[y], line, x_starts, x_counts, x_shares)


@_compiled
def _add_row(line: np.ndarray, row: np.ndarray, share: np.uint32, is_first: bool) -> None:
    if is_first:
        for i in range(len(row)):
            line[i] = share * np.uint32(row[i])
    else:
        for i in range(len(row)):
            line[i] += share * np.uint32(row[i])


@_compiled
def _sum_columns(
    row: np.ndarray, line: np.ndarray, starts: np.ndarray, counts: np.ndarray, shares: np.ndarray
) -> None:
    channels = row.shape[1]
    for x in range(len(starts)):
        for c in range(channels):
            total = np.uint32(1 << 23)  # one half: the sum has 24 fractional bits
            for k in range(counts[x]):
                total = np.uint32(total + shares[x, k] * line[(starts[x] + k) * channels + c])
            row[x, c] = total >> np.uint32(24)


@_compiled
def _sum_columns_of_three(
    row: np.ndarray, line: np.ndarray, starts: np.ndarray, shares: np.ndarray
) -> None:
    """Do what `_sum_columns` does, unrolled for at most three source pixels per new pixel.

    This is the case if an image shrinks to more than half its size.

    Indices are unsigned because numba otherwise checks each for being negative.
    """
    step = np.uintp(row.shape[1])
    for x in range(len(starts)):
        first, second, third = shares[x, 0], shares[x, 1], shares[x, 2]
        i = np.uintp(starts[x]) * step
        for c in range(row.shape[1]):
            total = np.uint32(
                np.uint32(1 << 23)
                + first * line[i]
                + second * line[i + step]
                + third * line[i + step + step]
            )
            row[np.uintp(x), np.uintp(c)] = total >> np.uint32(24)
            i += np.uintp(1)
