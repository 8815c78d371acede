"""Inputs of the fuzzers. A case depends only on the target, the seed and the case's number."""

import functools
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.helpers.sampled_jpegs import legal_factors, sampled_jpeg
from tests.helpers.tiny_betons import photo
from writers.dct import blob as dct
from writers.dct.reference import checksum_of
from writers.jpeg.restart_index import FOOTER, add_restart_index, encode_indexed
from writers.jpeg.turbojpeg import decode_planes

SIZES = ((90, 70), (97, 61), (64, 64), (115, 128), (17, 33), (8, 8), (3, 50), (530, 20))
# Values at which parsers change their behavior.
EDGES = (0, 1, 2, 7, 8, 15, 16, 0x1F, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xC4, 0xDA, 0xD9, 0xFE, 0xFF)


@dataclass(frozen=True)
class Case:
    """An image to decode.

    Attributes:
        data: the mutated bytes.
        width: image width according to its row in the `.beton` file, in pixels.
        height: image height according to that row, in pixels.
        box: left, top, width and height of the crop, in pixels, inside the image.
    """

    data: bytes
    width: int
    height: int
    box: tuple[int, int, int, int]


def draws_of(target: str, seed: int, number: int) -> np.random.Generator:
    """Return the random generator of a case."""
    return np.random.default_rng([zlib.crc32(target.encode()), seed, number])


def image_case(target: str, seed: int, number: int) -> Case:
    """Make case `number` of target jpeg, index or dct."""
    draws = draws_of(target, seed, number)
    originals, mutate = _TARGETS[target]
    found = originals()
    data, (width, height) = found[int(draws.integers(len(found)))]
    broken = mutate(data, draws)
    whole = draws.random() < 0.3
    left = 0 if whole else int(draws.integers(width))
    top = 0 if whole else int(draws.integers(height))
    right = width if whole else int(draws.integers(left + 1, width + 1))
    bottom = height if whole else int(draws.integers(top + 1, height + 1))
    return Case(broken, width, height, (left, top, right - left, bottom - top))


@functools.cache
def plain_jpegs() -> list[tuple[bytes, tuple[int, int]]]:
    """JPEGs of many kinds, each with its width and height."""
    found = []
    for number, (width, height) in enumerate(SIZES):
        image = Image.fromarray(photo(width, height, seed=number))
        for mode, options in (
            ("RGB", {"subsampling": number % 3}),
            ("RGB", {"subsampling": (number + 1) % 3, "restart_marker_blocks": 1 + number % 4}),
            ("RGB", {"subsampling": 2, "progressive": True}),
            ("RGB", {"subsampling": 0, "progressive": True, "quality": 98}),
            ("L", {"optimize": True}),
            ("L", {"progressive": True, "restart_marker_rows": 1}),
            ("CMYK", {}),
        ):
            buffer = io.BytesIO()
            image.convert(mode).save(buffer, "JPEG", **({"quality": 85} | options))
            found.append((buffer.getvalue(), (width, height)))
    for number, factors in enumerate(legal_factors()):
        width, height = SIZES[number % 4]
        found.append((sampled_jpeg(width, height, factors, seed=number), (width, height)))
    return found


@functools.cache
def indexed_jpegs() -> list[tuple[bytes, tuple[int, int]]]:
    """JPEGs with a restart index, each with its width and height."""
    found = [(add_restart_index(data), size) for data, size in plain_jpegs()]
    for data, size in plain_jpegs():
        if (planes := decode_planes(data)) is not None and planes.factors == (2, 2):
            found.append((encode_indexed(planes, 95), size))
    return [(data, size) for data, size in found if data.endswith(b"hrst\r\nix")]


@functools.cache
def dct_blobs() -> list[tuple[bytes, tuple[int, int]]]:
    """Blobs of dct images, each with its width and height."""
    found = [(dct.from_jpeg(data), size) for data, size in plain_jpegs()]
    return [(data, size) for data, size in found if data is not None]


def flip_some(data: bytearray, first: int, end: int, draws: np.random.Generator) -> None:
    """Change, insert, remove or copy a few bytes in [first, end)."""
    for _ in range(int(draws.integers(1, 5))):
        end = min(end, len(data))
        if end <= first:
            return
        place, kind = int(draws.integers(first, end)), draws.random()
        if kind < 0.3:
            data[place] ^= 1 << int(draws.integers(8))
        elif kind < 0.5:
            data[place] = int(draws.integers(256))
        elif kind < 0.7:
            data[place] = int(draws.choice(EDGES))
        elif kind < 0.76:
            data[place : place + 2] = bytes([255, int(draws.choice([0, 208, 211, 217, 255]))])
        elif kind < 0.81:
            wide = int(draws.integers(1, 9))
            data[place : place + wide] = bytes([int(draws.choice([0, 127, 255]))]) * wide
        elif kind < 0.86:
            data.insert(place, int(draws.integers(256)))
        elif kind < 0.92:
            del data[place : place + int(draws.integers(1, 4))]
        elif kind < 0.97:
            other, wide = int(draws.integers(first, end)), int(draws.integers(1, 30))
            data[place : place + wide] = data[other : other + wide]
        else:
            del data[place:]


def mutated_jpeg(jpeg: bytes, draws: np.random.Generator) -> bytes:
    """Mutate the header or the coded data."""
    data = bytearray(jpeg)
    scan = jpeg.index(b"\xff\xda")
    begin, end = (2, scan + 14) if draws.random() < 0.45 else (scan + 10, len(data))
    flip_some(data, begin, end, draws)
    return bytes(data)


def mutated_index(jpeg: bytes, draws: np.random.Generator) -> bytes:
    """Mutate the header, the coded data, the table or the footer; usually repair the checksum."""
    footer_begin = len(jpeg) - FOOTER.itemsize
    footer = np.frombuffer(jpeg, FOOTER, offset=footer_begin)[0]
    table = footer_begin - 2 * int(footer["num_segments"])
    scan = int(footer["scan"])
    ranges = ((2, scan), (scan, table), (table, footer_begin), (footer_begin, len(jpeg) - 12))
    begin, end = ranges[int(draws.choice(4, p=[0.35, 0.25, 0.2, 0.2]))]
    data = bytearray(jpeg)
    flip_some(data, begin, end, draws)
    return resealed_index(bytes(data)) if draws.random() < 0.85 else bytes(data)


def resealed_index(data: bytes) -> bytes:
    """Repair the magic and the checksum of an index, even if its other fields are damaged."""
    begin = len(data) - FOOTER.itemsize
    if begin < 0:
        return data
    footer = np.frombuffer(data, FOOTER, offset=begin)[0]
    scan, num_segments = int(footer["scan"]), int(footer["num_segments"])
    table = begin - 2 * num_segments
    if not 0 <= scan <= table:
        return data
    fixed = np.array([footer], FOOTER)
    fixed["magic"] = b"hrst\r\nix"
    fixed["checksum"] = zlib.crc32(data[:scan] + data[table : begin + 16])
    return data[:begin] + fixed.tobytes()


def mutated_dct(blob: bytes, draws: np.random.Generator) -> bytes:
    """Mutate header, tables, offsets or rows; usually repair the checksum."""
    first_row = _first_row(blob)
    data, kind = bytearray(blob), draws.random()
    if kind < 0.35:
        begin, end = 4, first_row
    elif kind < 0.6:  # a row begins with an offset for each run of 16 blocks
        table = 20 + 128 * blob[7]
        begin = int(draws.choice(np.frombuffer(blob[table:first_row], "<u4")))
        end = begin + 8
        if draws.random() < 0.5 and end < len(data):
            # Replace the high byte of one of the first four offsets by a small value.
            data[begin + 1 + 2 * int(draws.integers(4))] = int(draws.integers(8))
            end = begin
    else:
        begin, end = first_row, len(blob)
    flip_some(data, begin, end, draws)
    if draws.random() < 0.05 and len(data) > first_row:
        del data[int(draws.integers(first_row, len(data) + 1)) :]
    if draws.random() < 0.85 and len(data) >= 24:
        begin = _first_row(bytes(data))
        if begin <= len(data):
            data[12:16] = checksum_of(bytes(data[:begin])).to_bytes(4, "little")
    return bytes(data)


def _first_row(blob: bytes) -> int:
    """Offset of the first row of blocks in bytes, computed from the header."""
    components, halved, tables = min(blob[5], 3), blob[6], blob[7]
    height = int.from_bytes(blob[10:12], "little")
    rows = 0
    for component in range(components):
        high = -(-height // 2) if component and halved >> 1 else height
        rows += -(-high // 8)
    return -(-(20 + 128 * tables + 4 * (rows + 1)) // 8) * 8


_Originals = Callable[[], list[tuple[bytes, tuple[int, int]]]]
_Mutate = Callable[[bytes, np.random.Generator], bytes]
_TARGETS: dict[str, tuple[_Originals, _Mutate]] = {
    "jpeg": (plain_jpegs, mutated_jpeg),
    "index": (indexed_jpegs, mutated_index),
    "dct": (dct_blobs, mutated_dct),
}
