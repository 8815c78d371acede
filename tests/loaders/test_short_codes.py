"""Huffman codes at the limits of the C kernel's tables, in gray JPEGs written by this module."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from loaders import kernel_c
from writers.beton.encoding import JPEG
from writers.jpeg.restart_index import _with_index

pytestmark = pytest.mark.skipif(
    kernel_c.library() is None, reason="the package's C parts were not built"
)
EOB, ZEROS = 0x00, 0xF0  # end of a block; 16 zeros
# AC symbols; the digits are the run of zeros and the number of bits of the value.
SYMBOLS = [0x01, ZEROS, 0xF1, 0xE1, 0x0A, 0x1A, 0xF8, 0x02, 0x05]


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def codes_of(lengths: list[int]) -> list[str]:
    """Canonical codes of these lengths, which ascend."""
    codes, code = [], 0
    for before, length in itertools.pairwise([lengths[0], *lengths]):
        code <<= length - before
        codes.append(f"{code:0{length}b}")
        code += 1
    return codes


def gray_jpeg(end_length: int, blocks: list[list[tuple[int, int]]]) -> bytes:
    """Write a JPEG with one row of blocks, each of which is a segment.

    A block is a list of (symbol, bits of the value). The code of EOB has `end_length` bits.
    """
    lengths = [2, 2, 3, 4, 5, 9, 10, 12, 16]
    symbols = sorted([*zip(lengths, SYMBOLS, strict=True), (end_length, EOB)])
    code_of = dict(
        zip(
            (symbol for _, symbol in symbols),
            codes_of([length for length, _ in symbols]),
            strict=True,
        )
    )
    counts = bytes(sum(length == n for length, _ in symbols) for n in range(1, 17))
    coded = b""
    for number, block in enumerate(blocks):
        bits = "0"  # the only DC code: no difference
        for symbol, value in block:
            size = symbol & 15
            bits += code_of[symbol] + (f"{value:0{size}b}" if size else "")
        bits += "1" * (-len(bits) % 8)
        data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
        is_last = number == len(blocks) - 1
        coded += data + bytes([0xFF, 0xD9 if is_last else 0xD0 + number % 8])
    width = 8 * len(blocks)
    frame = bytes([8, 0, 8, 0, width, 1, 1, 0x11, 0])
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, bytes([0, *[1] * 64])),
            segment(0xC0, frame),
            segment(0xC4, bytes([0x00, 1, *[0] * 15, 0])),
            segment(0xC4, bytes([0x10]) + counts + bytes(symbol for _, symbol in symbols)),
            segment(0xDD, b"\0\1"),
            segment(0xDA, bytes([1, 1, 0, 0, 63, 0])),
            coded,
        ]
    )


BLOCKS = [
    [(0x01, 1), (EOB, 0)],
    [(EOB, 0)],
    [(0x0A, 0b1111111111), (0x1A, 0), (EOB, 0)],
    [(ZEROS, 0), (ZEROS, 0), (ZEROS, 0), (0xE1, 1)],  # ends with the last coefficient
    [(0xF1, 1), (0xF1, 0), (0xF8, 0b10000001), (0x01, 1), (EOB, 0)],
    [(ZEROS, 0), (0xF1, 1), (0x05, 0b01010), (EOB, 0)],
    [(0x01, n % 2) for n in range(63)],
    [(0x01, n % 2) for n in range(62)] + [(EOB, 0)],
    [(ZEROS, 0), (ZEROS, 0), (0xF1, 1), (0xE1, 0)],  # likewise
]


@pytest.mark.parametrize("isa", kernel_c.instruction_sets())
@pytest.mark.parametrize("end_length", [2, 4, 10, 11, 12, 16])
def test_blocks_end_as_in_libjpeg(isa, end_length):
    blocks = [*BLOCKS, *BLOCKS[::-1]]
    plain = gray_jpeg(end_length, blocks)
    image = Image.open(io.BytesIO(plain))
    expected = np.repeat(np.asarray(image)[..., None], 3, axis=2)
    assert expected.std() > 5, "the image has something to compare"
    corners = np.arange(0, image.width - 7, 4)
    n = len(corners)
    for blob in (plain, _with_index(plain, 1)):
        output, has_error = np.zeros((n, 8, 8, 3), np.uint8), np.ones(n, bool)
        zeros, flips = np.zeros(n, np.int64), np.zeros(n, bool)
        columns = (zeros, zeros + len(blob), np.full(n, JPEG), zeros + image.width, zeros + 8)
        file, boxes = np.frombuffer(blob, np.uint8), np.stack([corners, zeros, *[zeros + 8] * 2], 1)
        table = np.empty((0, 256), np.float16)
        kernel_c.open_kernel(isa)(file, *columns, boxes, flips, output, has_error, table)
        assert not has_error.any()
        if blob != plain:  # not left to libjpeg: that raises ValueError here
            images = kernel_c.stored_images(file, *columns)
            kernel_c.time_parts(images, boxes, flips, np.zeros_like(output), isa)
        for left, found in zip(corners.tolist(), output, strict=True):
            assert np.array_equal(found, expected[:, left : left + 8]), left
