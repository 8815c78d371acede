# mypy: disable-error-code="no-untyped-def"
"""Check the Huffman codes of a part of a restart-indexed JPEG as strictly as the C kernel.

libjpeg-turbo accepts some damage without a warning: runs beyond the end of a block, values with
more bits than a baseline image may have, and unused bits before the last marker. `is_exact` refuses
such parts, so that both kernels accept the same images. kernel_huffman.c has the same rules.
"""

from typing import Any

import numpy as np

from loaders.compile_numba import helper

_LOOKUP_BITS, _NUM_TABLES = 10, 8  # tables: 4 of DC values, then 4 of AC values
_MAX_DC_SIZE, _MAX_AC_SIZE = 11, 10  # largest number of bits of a value in a baseline image
# Positions of the parts of a table, in int32 values. At 0: lookup of short codes. At _BEYOND: a
# limit for each length n; the next 16 bits are below it if they begin with a code of n bits or
# fewer. At _OFFSET: for each length, the number of a symbol minus its code. At _SYMBOLS: the
# symbols. At _VALID: 1 if the table is valid.
_BEYOND = 1 << _LOOKUP_BITS
_OFFSET = _BEYOND + 18
_SYMBOLS = _OFFSET + 18
_VALID = _SYMBOLS + 256
_TABLE = _VALID + 1
MAX_COMPONENTS = 3
SCRATCH_SIZE = _NUM_TABLES * _TABLE + 4 * 4 * MAX_COMPONENTS  # int32 values


@helper
def is_exact(part, part_size, header_size, scratch):
    """Return True if the codes fill all MCUs and segments exactly.

    Args:
        part: uint8, a JPEG of header, segments between restart markers, and end marker.
        part_size: number of bytes of the JPEG in `part`.
        header_size: bytes before the first segment.
        scratch: int32 [SCRATCH_SIZE].
    """
    interval, num_mcus, blocks_per_mcu = _read_header(part, header_size, scratch)
    if num_mcus <= 0 or interval <= 0 or num_mcus % interval:
        return False
    position = header_size
    for segment in range(num_mcus // interval):
        position = _segment_end(part, part_size, position, interval, blocks_per_mcu, scratch)
        if position < 0 or position + 2 > part_size or part[position] != 0xFF:
            return False
        is_last = segment == num_mcus // interval - 1
        if part[position + 1] != (0xD9 if is_last else 0xD0 + segment % 8):
            return False
        position += 2
    return position == part_size


@helper
def _read_header(part, header_size, scratch):
    """Read tables and frame; return restart interval, number of MCUs, and blocks per MCU, or zeros.

    For each block of an MCU, component, DC table and AC table are written to the end of `scratch`.
    """
    none = (np.int64(0), np.int64(0), np.int64(0))
    for k in range(_NUM_TABLES):
        scratch[k * _TABLE + _VALID] = 0
    at, frame, interval = np.int64(2), np.int64(0), np.int64(0)
    while at + 4 <= header_size:
        if part[at] != 0xFF:
            return none
        marker, length = part[at + 1], np.int64(part[at + 2]) << 8 | np.int64(part[at + 3])
        end = at + 2 + length
        if end > header_size:
            return none
        if marker == 0xC0 or marker == 0xC1:
            frame = at
        elif marker == 0xC4:
            if not _read_tables(part, at + 4, end, scratch):
                return none
        elif 0xC2 <= marker <= 0xCF:
            return none
        elif marker == 0xDD:
            interval = np.int64(part[at + 4]) << 8 | np.int64(part[at + 5])
        elif marker == 0xDA:
            if frame == 0 or end != header_size:
                return none
            num_mcus, blocks_per_mcu = _read_scan(part, frame, at, scratch)
            return interval, num_mcus, blocks_per_mcu
        at = end
    return none


@helper
def _read_scan(part, frame, scan, scratch):
    """Return the number of MCUs and of blocks per MCU if the scan has all components, or zeros."""
    none = (np.int64(0), np.int64(0))
    height = np.int64(part[frame + 5]) << 8 | np.int64(part[frame + 6])
    width = np.int64(part[frame + 7]) << 8 | np.int64(part[frame + 8])
    num_components, num_blocks = np.int64(part[frame + 9]), np.int64(0)
    if num_components > MAX_COMPONENTS or part[scan + 4] != num_components:
        return none
    most_across, most_down = np.int64(1), np.int64(1)
    for c in range(num_components):
        here = scan + 5 + 2 * c
        found: Any = np.int64(-1)
        for k in range(num_components):
            if found < 0 and part[frame + 10 + 3 * k] == part[here]:
                found = k
        if found < 0:
            return none
        factors = np.int64(part[frame + 11 + 3 * found])
        if num_components == 1:
            factors = np.int64(0x11)  # MCUs of a single component are single blocks
        across, down = factors >> 4, factors & 15
        most_across, most_down = max(most_across, across), max(most_down, down)
        dc, ac = np.int64(part[here + 1]) >> 4, np.int64(part[here + 1]) & 15
        if dc > 3 or ac > 3 or num_blocks + across * down > 10:
            return none
        ac += 4
        if not scratch[dc * _TABLE + _VALID] or not scratch[ac * _TABLE + _VALID]:
            return none
        for _ in range(across * down):
            at = _NUM_TABLES * _TABLE + 3 * num_blocks
            scratch[at], scratch[at + 1], scratch[at + 2] = c, dc * _TABLE, ac * _TABLE
            num_blocks += 1
    columns, rows = -(-width // (8 * most_across)), -(-height // (8 * most_down))
    return columns * rows, num_blocks


@helper
def _read_tables(part, at, end, scratch):
    """Read the tables of a DHT segment. Returns False if their lengths do not fit the segment."""
    while at + 17 <= end:
        number, is_dc = np.int64(part[at]), part[at] < 16
        if (number & 15) > 3 or number >= 32:
            return False
        table = ((number & 15) + (0 if is_dc else 4)) * _TABLE
        num_symbols = np.int64(0)
        for length in range(1, 17):
            num_symbols += np.int64(part[at + length])
        if num_symbols > 256 or at + 17 + num_symbols > end:
            return False
        scratch[table + _VALID] = _make_table(part, at, table, is_dc, scratch)
        at += 17 + num_symbols
    return at == end


@helper
def _make_table(part, at, table, is_dc, scratch):
    """Fill in a table; return 1, or 0 if no baseline image may have this table."""
    code, symbol = np.int64(0), np.int64(0)
    for k in range(_BEYOND):
        scratch[table + k] = 0
    for length in range(1, 17):
        scratch[table + _OFFSET + length] = symbol - code
        for _ in range(part[at + length]):
            value = np.int64(part[at + 17 + symbol])
            size = value if is_dc else value & 15
            if code >> length or size > (_MAX_DC_SIZE if is_dc else _MAX_AC_SIZE):
                return 0
            scratch[table + _SYMBOLS + symbol] = value
            if length <= _LOOKUP_BITS:
                spread = _LOOKUP_BITS - length
                for k in range(code << spread, (code + 1) << spread):
                    scratch[table + k] = length << 8 | value
            symbol += 1
            code += 1
        scratch[table + _BEYOND + length] = code << (16 - length)
        code <<= 1
    return 1


@helper
def _segment_end(part, part_size, position, interval, blocks_per_mcu, scratch):
    """Return the position of the marker after a segment, or -1 if its codes do not end there."""
    # `word` holds `count` bits, of which the last `padding` are beyond the end of the segment.
    word, count, padding = np.uint64(0), np.int64(0), np.int64(0)
    is_at_marker = False
    blocks = _NUM_TABLES * _TABLE
    for _ in range(interval):
        for b in range(blocks_per_mcu):
            k, table, is_dc = np.int64(0), np.int64(scratch[blocks + 3 * b + 1]), True
            while k < 64:
                while count <= 48:
                    byte = np.uint64(0)
                    if not is_at_marker:
                        byte = np.uint64(part[position])
                        if byte == 0xFF and part[position + 1] != 0:
                            is_at_marker, byte = True, np.uint64(0)
                        else:
                            position += 2 if byte == 0xFF else 1
                            if position + 2 > part_size:
                                return np.int64(-1)
                    if is_at_marker:
                        padding += 8
                    word = word << np.uint64(8) | byte
                    count += 8
                code = np.int64(word >> np.uint64(count - 16)) & 0xFFFF
                entry = np.int64(scratch[table + (code >> (16 - _LOOKUP_BITS))])
                length, symbol = entry >> 8, entry & 255
                if entry == 0:
                    length = np.int64(_LOOKUP_BITS + 1)
                    while length <= 16 and code >= scratch[table + _BEYOND + length]:
                        length += 1
                    if length > 16:
                        return np.int64(-1)
                    place = (code >> (16 - length)) + scratch[table + _OFFSET + length]
                    symbol = np.int64(scratch[table + _SYMBOLS + (place & 255)])
                size = symbol if is_dc else symbol & 15
                count -= length + size
                if is_dc:
                    k, table, is_dc = np.int64(1), np.int64(scratch[blocks + 3 * b + 2]), False
                    continue
                run = symbol >> 4
                if size == 0 and run != 15:
                    break
                k += run + 1
            if k > 64 or count < padding:
                return np.int64(-1)
    if not is_at_marker and (part[position] != 0xFF or part[position + 1] == 0):
        return np.int64(-1)
    return position if 0 <= count - padding <= 7 else np.int64(-1)
