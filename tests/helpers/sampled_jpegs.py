"""Write JPEGs of any sampling factors. Pillow can decode them, but not write them."""

import itertools

import numpy as np

from tests.helpers.tiny_betons import jpeg

# Number of bits of a DC value -> its code (luminance, ITU T.81, table K.3); code of end of block.
_DC_CODES = ("00", "010", "011", "100", "101", "110", "1110", "11110", "111110")
_END_OF_BLOCK = "1010"


def legal_factors() -> list[tuple[int, int, int, int, int, int]]:
    """Return 18 ways to sample Y, Cb and Cr, (h, v) for each, with at most ten blocks per MCU."""
    luma = [(h, v) for h, v in itertools.product((1, 2, 3, 4), repeat=2) if h * v <= 8]
    first = [(h, v, 1, 1, 1, 1) for h, v in luma]
    mixed = [(2, 1, 1, 1, 2, 1), (2, 1, 2, 1, 2, 1), (2, 2, 1, 2, 1, 1), (2, 2, 1, 2, 1, 2)]
    more = [(1, 2, 1, 2, 1, 2), (2, 2, 2, 1, 2, 1), (2, 2, 2, 2, 2, 1), (4, 1, 2, 1, 2, 1)]
    return [*first[:10], *mixed, *more]


def sampled_jpeg(
    width: int, height: int, factors: tuple[int, int, int, int, int, int], seed: int = 0
) -> bytes:
    """Write a JPEG of 8 x 8 pixel tiles of random brightness and color, in one baseline scan."""
    template = jpeg(np.zeros((8, 8, 3), np.uint8))  # has the tables of the standard
    pairs = [factors[0:2], factors[2:4], factors[4:6]]
    across, down = max(h for h, _ in pairs), max(v for _, v in pairs)
    num_mcus = -(-width // (8 * across)) * -(-height // (8 * down))
    values = np.random.default_rng(seed)
    bits, previous = [], [0, 0, 0]
    for _ in range(num_mcus):
        for component, (h, v) in enumerate(pairs):
            for _ in range(h * v):
                value = int(values.integers(-60, 61))
                bits.append(_dc(value - previous[component]) + _END_OF_BLOCK)
                previous[component] = value
    joined = "".join(bits)
    joined += "1" * (-len(joined) % 8)
    coded = int(joined, 2).to_bytes(len(joined) // 8, "big").replace(b"\xff", b"\xff\x00")
    begin = template.index(b"\xff\xc0")
    frame = b"\xff\xc0\x00\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03"
    for number, (h, v) in enumerate(pairs):
        frame += bytes([number + 1, h << 4 | v, min(number, 1)])
    scan = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x3f\x00"  # luminance codes for all
    tables = template[begin + 19 : template.index(b"\xff\xda")]
    return template[:begin] + frame + tables + scan + coded + b"\xff\xd9"


def _dc(difference: int) -> str:
    size = abs(difference).bit_length()
    if size == 0:
        return _DC_CODES[0]
    value = difference if difference > 0 else difference + (1 << size) - 1
    return _DC_CODES[size] + format(value, f"0{size}b")
