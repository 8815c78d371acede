"""`dct` blobs decode to the pixels of their JPEG, in C and in Python, and convert back to it."""

import io

import numpy as np
import pytest
from PIL import Image

from writers.dct import blob as dct
from writers.dct import reference
from writers.jpeg import native as kernel
from writers.jpeg.restart_index import DamagedJpegError, add_restart_index

pytestmark = pytest.mark.skipif(
    kernel.library() is None, reason="the package's C parts were not built"
)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]: slopes and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([x + y, 2 * x, 3 * y], axis=2) % 256
    return np.clip(slopes + random.normal(0, 25, slopes.shape), 0, 255).astype(np.uint8)


def saved(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


def pillow_pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


KINDS = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "gray": {"mode": "L"},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 5},
    "rough": {"quality": 8},
    "fine": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 1), (9, 33), (130, 47), (257, 16)])
def test_a_blob_has_the_jpegs_pixels_and_gives_it_back(kind, size):
    jpeg = saved(picture(*size), **KINDS[kind])
    blob = dct.from_jpeg(jpeg)
    assert blob is not None and dct.check(blob) == size
    expected = pillow_pixels(jpeg)
    assert np.array_equal(reference.decode_rgb(blob), expected)
    back = dct.to_jpeg(blob)
    assert np.array_equal(pillow_pixels(back), expected)
    assert dct.from_jpeg(back) == blob == dct.from_jpeg(add_restart_index(jpeg))


@pytest.mark.parametrize("kind", ["cmyk", "rgb", "narrow"])
def test_cmyk_rgb_and_narrow_jpegs_are_not_converted(kind):
    jpeg = {
        "cmyk": lambda: saved(picture(40, 30), mode="CMYK"),
        "rgb": lambda: saved(picture(40, 30), keep_rgb=True),
        "narrow": lambda: saved(picture(7, 30)),
    }[kind]()
    assert dct.from_jpeg(jpeg) is None


@pytest.mark.parametrize("damage", ["cut short", "zeros", "no jpeg"])
def test_a_damaged_jpeg_is_refused(damage):
    jpeg = saved(picture(90, 70))
    half = len(jpeg) // 2
    spoilt = {"cut short": jpeg[:half], "zeros": jpeg[:half] + bytes(half), "no jpeg": b"GIF89a"}
    with pytest.raises(DamagedJpegError):
        dct.from_jpeg(spoilt[damage])


def test_any_flipped_bit_of_the_header_is_detected():
    blob = dct.from_jpeg(saved(picture(30, 20)))
    image = reference.read(blob)
    num_rows = sum(len(blocks) for blocks in image.blocks)
    begin = reference.HEADER + 128 * blob[7] + 4 * num_rows
    for bit in range(8 * begin):
        spoilt = bytearray(blob)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(dct.DamagedBlobError):
            dct.check(bytes(spoilt))


def test_damaged_blocks_raise_or_decode_as_in_the_reference():
    """Bits are flipped after the header. C and the reference read the same, or both refuse."""
    random = np.random.default_rng(1)
    blob = dct.from_jpeg(saved(picture(150, 20), quality=97))
    begin = int.from_bytes(blob[reference.HEADER + 128 * blob[7] :][:4], "little")
    refused = 0
    for _ in range(300):
        spoilt = bytearray(blob)
        for place in random.integers(begin, len(blob), random.integers(1, 4)):
            spoilt[place] ^= 1 << random.integers(8)
        try:
            back = dct.to_jpeg(bytes(spoilt))
        except dct.DamagedBlobError:
            refused += 1
            continue
        assert np.array_equal(reference.decode_rgb(bytes(spoilt)), pillow_pixels(back))
    assert 30 < refused < 300


def test_the_reference_refuses_coefficients_beyond_16_bits():
    blob = bytearray(dct.from_jpeg(saved(picture(150, 20))))
    first_row = reference.HEADER + 128 * blob[7]
    row = int.from_bytes(blob[first_row : first_row + 4], "little")
    run = row + int.from_bytes(blob[row : row + 2], "little")
    blob[run + 2 : run + 4] = (2**15 - 1).to_bytes(2, "little")  # lowest DC of the run
    with pytest.raises(ValueError, match="a run of its blocks is damaged"):
        reference.read(bytes(blob))
    with pytest.raises(dct.DamagedBlobError):
        dct.to_jpeg(bytes(blob))


def test_the_reference_refuses_a_run_without_a_header():
    blob = bytearray(dct.from_jpeg(saved(picture(150, 20))))
    first_row = reference.HEADER + 128 * blob[7]
    begin = int.from_bytes(blob[first_row : first_row + 4], "little")
    blob[begin + 2 : begin + 4] = blob[begin : begin + 2]  # the first run ends where it begins
    with pytest.raises(ValueError, match="a run of its blocks is damaged"):
        reference.read(bytes(blob))
    with pytest.raises(dct.DamagedBlobError):
        dct.check(bytes(blob))
