"""Slow, simple reference decoder of `dct` blobs (see blob.h) in Python integers and numpy.

It reads coefficients bit by bit and decodes whole images. Inverse DCT, upsampling and color
conversion follow the same papers as the C code (loaders/native/idct.c and upsample_color.c).
"""

from dataclasses import dataclass

import numpy as np

HEADER, RUN = 20, 16  # bytes of the header; blocks per run
BITS = (0, 1, 2, 3, 4, 5, 7, 11)  # bits per value, indexed by the code of the value's group
WIDE = 7  # code of groups of the widest values, which are stored last
_GAMMA, _MASK = 0x9E3779B97F4A7C15, 2**64 - 1  # of the checksum


def zigzag() -> np.ndarray:
    """Return the position in natural order of each coefficient in zigzag order, int64 [64]."""
    diagonals = [[(y, d - y) for y in range(8) if 0 <= d - y < 8] for d in range(15)]
    places = [
        place for d, line in enumerate(diagonals) for place in (line if d % 2 else line[::-1])
    ]
    return np.array([8 * y + x for y, x in places])


@dataclass(frozen=True)
class Coefficients:
    """Contents of a blob.

    Attributes:
        width: pixels.
        height: pixels.
        halved: whether chroma is subsampled horizontally, and whether vertically.
        tables: quantization table of each component, int16 [64], natural order.
        blocks: blocks of each component, int16 [rows, columns, 64], natural order.
    """

    width: int
    height: int
    halved: tuple[bool, bool]
    tables: list[np.ndarray]
    blocks: list[np.ndarray]


def read(blob: bytes) -> Coefficients:
    """Read a blob. Raises ValueError if the bytes are not a blob, or damaged."""
    if blob[:4] != b"hdct" or len(blob) < HEADER or blob[4] != 1:
        raise ValueError("it does not begin with the header of a dct blob")
    num_components, halved, num_tables = blob[5], (bool(blob[6] & 1), bool(blob[6] & 2)), blob[7]
    width, height, checksum = (
        int.from_bytes(blob[begin:end], "little") for begin, end in ((8, 10), (10, 12), (12, 16))
    )
    sizes = []
    for component in range(num_components):
        across, down = (component > 0 and is_halved for is_halved in halved)
        sizes.append((-(-width // 2) if across else width, -(-height // 2) if down else height))
    num_rows = sum(-(-high // 8) for _, high in sizes)
    first_row = HEADER + 128 * num_tables
    begin = -(-(first_row + 4 * (num_rows + 1)) // 8) * 8
    if checksum_of(blob[:begin]) != checksum:
        raise ValueError("its header is damaged")
    rows = np.frombuffer(blob, "<u4", num_rows + 1, first_row).tolist()
    tables = np.frombuffer(blob, "<i2", 64 * num_tables, HEADER).reshape(num_tables, 64)
    blocks, row = [], 0
    for wide, high in sizes:
        columns, lines = -(-wide // 8), -(-high // 8)
        blocks.append(
            np.stack([_row(blob[rows[y] : rows[y + 1]], columns) for y in range(row, row + lines)])
        )
        row += lines
    return Coefficients(
        width, height, halved, [tables[blob[16 + c]] for c in range(num_components)], blocks
    )


def checksum_of(start: bytes) -> int:
    """Compute the checksum of the bytes before the first row, with the checksum itself as zeros."""
    start = start[:12] + bytes(4) + start[16:]
    total = 0
    for at in range(0, len(start), 8):
        total = ((total ^ int.from_bytes(start[at : at + 8], "little")) * _GAMMA) & _MASK
        total ^= total >> 32
    return total & 0xFFFFFFFF


def _row(data: bytes, columns: int) -> np.ndarray:
    """Read a row of blocks, int16 [columns, 64]."""
    num_runs = -(-columns // RUN)
    starts = [*np.frombuffer(data, "<u2", num_runs).tolist(), len(data)]
    return np.concatenate(
        [
            _run(data[starts[i] : starts[i + 1]], min(RUN, columns - RUN * i))
            for i in range(num_runs)
        ]
    )


def _run(data: bytes, num_blocks: int) -> np.ndarray:
    """Read a run of blocks, int16 [num_blocks, 64]. Raises ValueError if it is damaged."""
    if len(data) < 4 or data[0] > 8 or data[1] > 16:
        raise ValueError("a run of its blocks is damaged")
    groups, dc_bits = data[0], data[1]
    dc_min = int.from_bytes(data[2:4], "little", signed=True)
    bits, order = _Bits(data, 4), zigzag()
    dc = [dc_min + bits.take(dc_bits) for _ in range(num_blocks)]
    if max(dc) > np.iinfo(np.int16).max:
        raise ValueError("a run of its blocks is damaged")
    bits.end_byte()
    codes = [[bits.take(3) for _ in range(groups)] for _ in range(num_blocks)]
    bits.end_byte()
    blocks = np.zeros((num_blocks, 64), np.int16)
    for block, first, own in zip(blocks, dc, codes, strict=True):
        bitmaps = {group: bits.take(8) for group, code in enumerate(own) if code}
        for is_wide in (False, True):
            for group, bitmap in bitmaps.items():
                if (own[group] == WIDE) != is_wide:
                    continue
                width = 8 if own[group] == 6 and group == 0 else BITS[own[group]]
                for k in range(8):
                    if bitmap >> k & 1:
                        value = bits.take(width) - 2 ** (width - 1)
                        block[order[8 * group + k]] = value + (value >= 0)
        bits.end_byte()
        block[0] = first
    if bits.position != 8 * len(data):
        raise ValueError("a run of its blocks is damaged")
    return blocks


class _Bits:
    """Bit reader, least significant bit first."""

    def __init__(self, data: bytes, begin: int) -> None:
        self._number, self.position = int.from_bytes(data, "little"), 8 * begin

    def take(self, count: int) -> int:
        value = self._number >> self.position & (2**count - 1)
        self.position += count
        return int(value)

    def end_byte(self) -> None:
        self.position += -self.position % 8


def decode_rgb(blob: bytes) -> np.ndarray:
    """Decode to uint8 [H, W, 3], equal to libjpeg-turbo's pixels of the JPEG. Raises ValueError."""
    image = read(blob)
    planes = [
        _samples(blocks, table) for blocks, table in zip(image.blocks, image.tables, strict=True)
    ]
    y = planes[0][: image.height, : image.width].astype(np.int64)
    if len(planes) == 1:
        return np.repeat(y.astype(np.uint8)[..., None], 3, axis=2)
    cb, cr = (_upsampled(plane, image)[: image.height, : image.width] - 128 for plane in planes[1:])
    rgb = [
        y + (91881 * cr + 32768 >> 16),
        y + (-22554 * cb - 46802 * cr + 32768 >> 16),
        y + (116130 * cb + 32768 >> 16),
    ]
    result_array: np.ndarray = np.clip(np.stack(rgb, axis=2), 0, 255).astype(np.uint8)
    return result_array


def _upsampled(plane: np.ndarray, image: Coefficients) -> np.ndarray:
    """Upsample a chroma plane [h, w] to the image's resolution, int64 [H, W] or up to 1 px more.

    Each subsampled axis is filtered by a triangle; the border is repeated.
    """
    across, down = image.halved
    plane = plane.astype(np.int64)
    plane = plane[
        : -(-image.height // 2) if down else image.height,
        : -(-image.width // 2) if across else image.width,
    ]
    if down:
        above, below = plane[[0, *range(len(plane) - 1)]], plane[[*range(1, len(plane)), -1]]
        plane = np.stack([3 * plane + above, 3 * plane + below], axis=1).reshape(-1, plane.shape[1])
        if not across:
            return plane + np.where(np.arange(len(plane)) % 2, 2, 1)[:, None] >> 2
    if across:
        columns = plane.shape[1]
        left = plane[:, [0, *range(columns - 1)]]
        right = plane[:, [*range(1, columns), -1]]
        first, second, bits = (8, 7, 4) if down else (1, 2, 2)
        pairs = [3 * plane + left + first >> bits, 3 * plane + right + second >> bits]
        plane = np.stack(pairs, axis=2).reshape(len(plane), -1)
    return plane


def _samples(blocks: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Apply the inverse DCT to int16 [rows, columns, 64]; return uint8 [8 rows, 8 columns].

    This is the accurate integer transform, as in idct.c.
    """
    rows, columns, _ = blocks.shape
    values = (blocks * table).reshape(rows, columns, 8, 8)  # products wrap to 16 bits
    shifted = np.repeat(values[..., :1, :] << 2, 8, axis=-2)
    only_first_row = ~blocks.reshape(rows, columns, 8, 8)[..., 1:, :].any(axis=(-1, -2))
    first = _transformed(values, 11, axis=-2)
    first[only_first_row] = shifted[only_first_row]
    levels = np.clip(_transformed(first, 18, axis=-1), -128, 127) + 128
    result_array: np.ndarray = (
        levels.astype(np.uint8).transpose(0, 2, 1, 3).reshape(8 * rows, 8 * columns)
    )
    return result_array


def _transformed(values: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Apply one pass of the inverse DCT along an axis of length 8 of int16 values.

    Sums of two values wrap to 16 bits. The result is rounded after a shift by `bits`.
    """
    r = np.moveaxis(values, axis, 0)
    z3, z4, plus, minus = r[7] + r[3], r[5] + r[1], r[0] + r[4], r[0] - r[4]
    wide = [line.astype(np.int64) for line in r]
    z3, z4, plus, minus = (line.astype(np.int64) for line in (z3, z4, plus, minus))
    even2, even3 = 4433 * wide[2] - 10704 * wide[6], 10703 * wide[2] + 4433 * wide[6]
    sums = [
        (plus << 13) + even3,
        (minus << 13) + even2,
        (minus << 13) - even2,
        (plus << 13) - even3,
    ]
    odd3, odd4 = -6436 * z3 + 9633 * z4, 9633 * z3 + 6437 * z4
    odds = [
        -7373 * wide[7] + 4926 * wide[1] + odd4,
        -20995 * wide[5] + 4177 * wide[3] + odd3,
        -4176 * wide[5] - 20995 * wide[3] + odd4,
        -4927 * wide[7] - 7373 * wide[1] + odd3,
    ]
    half = 1 << (bits - 1)
    ups = [s + o + half >> bits for s, o in zip(sums, odds, strict=True)]
    downs = [s - o + half >> bits for s, o in zip(sums, odds, strict=True)]
    result = np.clip(np.stack(ups + downs[::-1]), -32768, 32767).astype(np.int16)
    return np.moveaxis(result, 0, axis)
