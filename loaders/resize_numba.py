# mypy: disable-error-code="no-untyped-def"
"""Resize a box of pixels with integer arithmetic; a part of the numba kernel.

The equations and the rounding are the same as in native/weights.c and native/resize.c. `kind` is
the number of the interpolation: 0 area, 1 bilinear, 2 bicubic (`number_of` in interpolation.py).
"""

import numpy as np

from loaders.compile_numba import helper

_TAPS_WRITTEN_OUT = 3  # number of taps that _sum_columns unrolls
# The weights of an output pixel sum to _ONE. The sums along x (across), then along y (down), are
# shifted right by these numbers of bits, as in native/stages.h.
_ONE, _ROUND_ACROSS, _ROUND_DOWN = 2**14, 7, 21
_HALF_ACROSS, _HALF_DOWN = 2 ** (_ROUND_ACROSS - 1), 2 ** (_ROUND_DOWN - 1)
_MOST_ACROSS = 255 * 128  # largest value of a row that was resized along x


@helper
def num_taps(source, target, kind):
    """Return the largest number of source pixels of an output pixel along one axis, at least 3."""
    if kind:
        return max(_TAPS_WRITTEN_OUT, 2 * kind * max(source, target) // target + 1)
    return max(_TAPS_WRITTEN_OUT, source // target + 2)


@helper
def _filter_weight(kind, distance, unit):
    """Compute the same value as filter_weight in native/weights.c."""
    if kind == 1:
        return max(unit - distance, 0)
    one = np.int64(1 << 14)
    t = (distance * one + unit // 2) // unit
    if t < one:
        return ((3 * t - 5 * one) * t * t + 2 * one * one * one) >> 19
    if t < 2 * one:
        return ((5 * one - t) * t * t - 8 * one * one * t + 4 * one * one * one) >> 19
    return np.int64(0)


@helper
def _taps(i, source, target, num_taps, shares, at, kind):
    """Return the first source pixel of output pixel i along one axis, and the number of taps.

    The weights are written to shares[at:], zero-padded: integers that sum to 2^14. fill_weights in
    native/weights.c has the equations.
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


@helper
def resize(
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
    """Resize a box of RGB pixels to output [R * R * 3], mirrored if `flip` is 1.

    The result is uint8 levels if `table` is empty. Otherwise it is table[color, level].

    The box has `width` x `height` pixels from byte `origin` on; its rows are `stride` bytes apart.
    The other arrays are scratch memory. `starts` [R] holds the first source column of each output
    column. `shares` holds the weights of all output columns, then those of one output row. `line`
    holds a padded row of the box, `ring` the rows that were resized along x and are still needed,
    and `result` an output row.
    """
    resolution = len(starts)
    x_taps, y_taps = num_taps(width, resolution, kind), num_taps(height, resolution, kind)
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


@helper
def _memcpy_row(pixels, begin, line, size):
    """Copy a row of the box to padded memory, so that reads after its end are valid."""
    row = pixels[begin : begin + size]
    for i in range(size):
        line[i] = row[i]


@helper
def _sum_rows(ring, first, count, num_rows, shares, result):
    """Compute result[i] = sum over k of shares[k] * ring[first + k, i], rounded to levels.

    The compiler vectorizes the loop.
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


@helper
def _sum_columns(line, starts, shares, num_taps, result):
    """Compute each output pixel's weighted sum over `line`, in units of 1 / 128 level.

    With the area filter, three unrolled taps suffice for every box narrower than 2 R, and are 1.5
    times as fast as the loop. Indices are unsigned because numba otherwise checks each one for
    being negative.
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
