"""A part of a JPEG with a restart index has the pixels of the whole; bad indexes are ignored."""

import ctypes
import importlib.util
import io
import itertools
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from loaders import kernel, open_loader
from loaders.ffcv_parts import LIBRARY
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import photo, write_beton
from writers.beton.encoding import JPEG
from writers.jpeg.restart_index import FOOTER, add_restart_index

built = importlib.util.find_spec("writers._kernel") is not None
pytestmark = pytest.mark.skipif(not built, reason="the package's C parts were not built")

# TurboJPEG's numbers.
SUBSAMPLINGS = {
    "4:4:4": 0,
    "4:2:2": 1,
    "4:2:0": 2,
    "gray": 3,
    "4:4:0": 4,
    "4:1:1": 5,
}
SIZES = [
    (1, 1),
    (3, 2),
    (5, 9),
    (16, 16),
    (17, 16),
    (67, 35),
    (80, 3),
    (2, 90),
    (131, 77),
    (160, 120),
    (203, 41),
]


@pytest.fixture(scope="module", params=["c", "numba"])
def decode(request):
    """Return a function that decodes boxes of one blob with a kernel.

    It maps boxes (left, top, width, height), int64 [n, 4], to images, uint8 [n, R, R, 3], and
    has_error, bool [n]. R is the resolution in pixels.
    """
    if request.param == "numba":
        request.getfixturevalue("numba_is_compiled")
    decode_images = kernel.open_kernel(LIBRARY, request.param)

    def decode(
        blob: bytes, size: tuple[int, int], boxes: np.ndarray, resolution: int, flip: bool = False
    ):
        n = len(boxes)
        output, has_error = (
            np.full((n, resolution, resolution, 3), 99, np.uint8),
            np.zeros(n, bool),
        )
        decode_images(
            np.frombuffer(blob, np.uint8),
            np.zeros(n, np.int64),
            np.full(n, len(blob)),
            np.full(n, JPEG, np.uint8),
            np.full(n, size[0]),
            np.full(n, size[1]),
            boxes,
            np.full(n, flip),
            output,
            has_error,
            np.empty((0, 256), np.float16),
        )
        return output, has_error

    return decode


def turbo_jpeg(image: np.ndarray, subsampling: int, quality: int = 92) -> bytes:
    turbo = ctypes.CDLL(str(LIBRARY))
    turbo.tjInitCompress.restype = ctypes.c_void_p
    handle, result, size = (
        ctypes.c_void_p(turbo.tjInitCompress()),
        ctypes.c_void_p(),
        ctypes.c_ulong(),
    )
    height, width, _ = image.shape
    assert (
        turbo.tjCompress2(
            handle,
            image.ctypes.data_as(ctypes.c_void_p),
            width,
            0,
            height,
            0,
            ctypes.byref(result),
            ctypes.byref(size),
            subsampling,
            quality,
            0,
        )
        == 0
    )
    jpeg = ctypes.string_at(result, size.value)
    turbo.tjFree(result)
    turbo.tjDestroy(handle)
    return jpeg


def pillow_pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def index_size(blob: bytes) -> int:
    return FOOTER.itemsize + 2 * int(
        np.frombuffer(blob[-FOOTER.itemsize :], FOOTER)["num_segments"][0]
    )


def square_boxes(
    random: np.random.Generator, width: int, height: int, side: int, count: int
) -> np.ndarray:
    corners = random.integers(0, [width - side + 1, height - side + 1], (count, 2))
    corners[: count // 4, 0] = width - side  # at the edges, whose last MCUs are incomplete
    corners[count // 8 : count * 3 // 8, 1] = height - side
    return np.concatenate([corners, np.full((count, 2), side)], axis=1)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("size", SIZES)
def test_any_decoded_part_equals_that_part_of_the_whole(decode, subsampling, size):
    """A box of R x R pixels is not resized, so its pixels are the decoder's; Pillow is the oracle."""
    random = np.random.default_rng(size[0] * 1000 + size[1])
    blob = add_restart_index(turbo_jpeg(photo(*size, seed=1), SUBSAMPLINGS[subsampling]))
    whole = pillow_pixels(blob)
    for side in {1, 2, min(5, *size), min(18, *size), min(size)}:
        side = min(side, *size)
        boxes = square_boxes(random, *size, side, 40)
        output, has_error = decode(blob, size, boxes, side)
        assert not has_error.any()
        for (left, top, _, _), pixels in zip(boxes.tolist(), output, strict=True):
            assert np.array_equal(pixels, whole[top : top + side, left : left + side]), (
                left,
                top,
                side,
            )


def test_the_same_with_and_without_an_index_at_any_scale(decode):
    size = 203, 141
    blob = add_restart_index(turbo_jpeg(photo(*size, seed=3), SUBSAMPLINGS["4:2:0"]))
    random = np.random.default_rng(0)
    corners, ends = (
        random.integers(0, np.array(size) // 2, (300, 2)),
        random.integers(np.array(size) // 2 + 1, size, (300, 2)),
    )
    boxes = np.concatenate([corners, ends - corners], axis=1)
    for resolution, flip in itertools.product([7, 32, 64], [False, True]):
        part, _ = decode(blob, size, boxes, resolution, flip)
        whole, _ = decode(blob[: -index_size(blob)], size, boxes, resolution, flip)
        assert np.array_equal(part, whole)


def test_only_the_part_is_decoded(decode):
    """Damage outside of the crop has no effect.

    Damage inside the crop is found. The kernel then decodes the whole image, and reports an error
    if that fails, too.
    """
    size = 320, 240
    blob = add_restart_index(turbo_jpeg(photo(*size, seed=5), SUBSAMPLINGS["4:2:0"]))
    whole, end = pillow_pixels(blob), len(blob) - index_size(blob)
    spoilt = blob[: end - 60] + b"\xff\xd9" + blob[end - 58 :]  # the image seems to end here
    boxes = np.array([[0, 0, 64, 64], [240, 176, 64, 64]])
    output, has_error = decode(spoilt, size, boxes, 64)
    assert has_error.tolist() == [False, True]
    assert np.array_equal(output[0], whole[:64, :64])


def test_a_damaged_index_changes_no_pixel(decode):
    size = 150, 90
    blob = add_restart_index(turbo_jpeg(photo(*size, seed=2), SUBSAMPLINGS["4:2:0"]))
    whole, start = pillow_pixels(blob), len(blob) - index_size(blob)
    random = np.random.default_rng(8)
    boxes = square_boxes(random, *size, 20, 2)
    for number in range(1500):
        spoilt = bytearray(blob)
        places = random.integers(start, len(blob), random.integers(1, 5))
        for place in places:
            spoilt[place] = random.choice([0, 0xFF, spoilt[place] ^ 1, random.integers(256)])
        if number % 3 == 0:  # cut short, or made longer
            spoilt = spoilt[: random.integers(start, len(blob))] + bytes(random.integers(0, 3))
        output, has_error = decode(bytes(spoilt), size, boxes, 20)
        assert not has_error.any()
        for (left, top, _, _), pixels in zip(boxes.tolist(), output, strict=True):
            assert np.array_equal(pixels, whole[top : top + 20, left : left + 20])


def test_a_false_index_with_a_valid_checksum_is_refused_or_harmless(decode):
    """A crafted index does not crash a kernel; a sanitizer would see reads outside the blob."""
    size = 150, 90
    blob = add_restart_index(turbo_jpeg(photo(*size, seed=2), SUBSAMPLINGS["4:2:0"]))
    start = len(blob) - index_size(blob)
    random = np.random.default_rng(9)
    boxes = square_boxes(random, *size, 20, 2)
    for _ in range(1500):
        footer = np.frombuffer(blob[-FOOTER.itemsize :], FOOTER).copy()
        lengths = np.frombuffer(blob[start : -FOOTER.itemsize], "<u2").copy()
        header = bytearray(blob[: int(footer["scan"][0])])
        for _ in range(random.integers(1, 4)):
            what = random.integers(4)
            if what == 0:
                lengths[random.integers(len(lengths))] = random.choice(
                    [0, 1, 2, 65535, random.integers(65536)]
                )
            elif what == 1:
                name = random.choice(["num_segments", "frame", "scan", "interval"])
                old = int(footer[name][0])
                new = int(
                    random.choice(
                        [0, 1, old + 1, old - 1, 2 * old, 0xFFFF, 2**32 - 1, random.integers(2**31)]
                    )
                )
                footer[name] = new & (0xFFFF if name == "interval" else 0xFFFFFFFF)
            else:
                header[random.integers(2, len(header))] = random.integers(256)
        table = lengths.tobytes()
        begin = (
            len(header) + (start - len(header)) + len(table) - 2 * int(footer["num_segments"][0])
        )
        body = bytes(header) + blob[len(header) : start] + table
        covered = body[: int(footer["scan"][0])] + body[max(0, begin) :] + footer.tobytes()[:16]
        footer["checksum"] = zlib.crc32(covered)
        decode(body + footer.tobytes(), size, boxes, 20)


def test_stock_ffcv_decodes_it_as_the_original():
    from ffcv.libffcv import imdecode  # loaders.ffcv_parts must be imported first

    original = turbo_jpeg(photo(150, 90, seed=2), SUBSAMPLINGS["4:2:0"])
    decoded = []
    for blob in (original, add_restart_index(original)):
        pixels, source = np.zeros((90, 150, 3), np.uint8), np.frombuffer(blob, np.uint8)
        imdecode(source, pixels, 90, 150, 90, 150)
        decoded.append(pixels)
    assert decoded[0].any() and np.array_equal(*decoded)


def test_a_loader_gives_the_same_epoch_from_either_form(tmp_path, monkeypatch):
    images = [photo(150 - 3 * number, 60 + 7 * number, seed=number) for number in range(12)]
    original = [turbo_jpeg(image, number % 6) for number, image in enumerate(images)]
    epochs = []
    for name, blobs in (
        ("plain", original),
        ("indexed", [add_restart_index(blob) for blob in original]),
    ):
        beton = write_beton(
            tmp_path / f"{name}.beton", images, [0] * 12, raw=[False] * 12, blobs=blobs
        )
        for best in ("c", "numba"):
            monkeypatch.setattr(kernel, "best_kernel", lambda best=best: best)
            plan = LoaderPlan(
                beton, 5, 40, augment="random_resized_crop", horizontal_flip=True, num_threads=2
            )
            with open_loader(plan) as loader:
                epochs.append(torch.cat([images.clone() for images, _ in loader.epoch(1)]))
    assert all(torch.equal(epochs[0], epoch) for epoch in epochs[1:])


@pytest.mark.parametrize("size", [(149, 90), (150, 91), (1500, 900), (75, 45)])
def test_sizes_that_differ_from_the_table_set_the_error_flag(decode, size):
    blob = add_restart_index(turbo_jpeg(photo(150, 90, seed=2), SUBSAMPLINGS["4:2:0"]))
    _, has_error = decode(blob, size, np.array([[3, 4, 20, 20]]), 20)
    assert has_error.all()
