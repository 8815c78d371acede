"""The C kernel's pixels equal libjpeg-turbo's with every instruction set of this processor."""

import io
import itertools
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders import kernel_c
from tests.helpers.tiny_betons import jpeg, photo
from writers.beton.encoding import DCT, JPEG, RAW
from writers.dct import blob as dct
from writers.jpeg import native as writers_kernel
from writers.jpeg.restart_index import add_restart_index

pytestmark = pytest.mark.skipif(
    kernel_c.library() is None or writers_kernel.library() is None,
    reason="the package's C parts were not built",
)


@pytest.fixture(scope="module", params=kernel_c.instruction_sets())
def decode(request):
    """Decode crops without resizing, by their corners int64 [n, 2], to uint8 [n, R, R, 3]."""
    decode_images = kernel_c.open_kernel(request.param)

    def decode(
        blob: bytes, size: tuple[int, int], corners: np.ndarray, side: int, mode: int = JPEG
    ) -> np.ndarray:
        n = len(corners)
        output = np.full((n, side, side, 3), 99, np.uint8)
        has_error = np.ones(n, bool)
        decode_images(
            np.frombuffer(blob, np.uint8),
            np.zeros(n, np.int64),
            np.full(n, len(blob)),
            np.full(n, mode, np.uint8),
            np.full(n, size[0]),
            np.full(n, size[1]),
            np.concatenate([corners, np.full((n, 2), side)], axis=1),
            np.zeros(n, bool),
            output,
            has_error,
            np.empty((0, 256), np.float16),
        )
        assert not has_error.any()
        return output

    return decode


def indexed(pixels: np.ndarray, sampling: str, table: list[int]) -> bytes:
    """Make a JPEG with a restart index; all quantization tables are `table`, in zigzag order."""
    buffer = io.BytesIO()
    options = {"subsampling": sampling}
    Image.fromarray(pixels).save(buffer, "JPEG", qtables=[table, table], **options)
    return add_restart_index(buffer.getvalue())


def with_tables(blob: bytes, value: int) -> bytes:
    """Set all entries of the quantization tables to the value, and remove the index."""
    end = blob.index(b"\xff\xda")
    data, at = bytearray(blob), 2
    while at < end:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDB:
            for table in range(at + 4, at + 2 + length, 65):
                data[table + 1 : table + 65] = bytes([value] * 64)
        at += 2 + length
    return bytes(data[: data.rindex(b"\xff\xd9") + 2])


def corners_of(size: tuple[int, int], side: int) -> np.ndarray:
    """Return (left, top) of square crops in an image of size (width, height); int [n, 2].

    They lie at the corners of the image and in between, at odd and at even positions.
    """
    across, down = ({0, min(1, free), free // 2, free} for free in (size[0] - side, size[1] - side))
    return np.array(list(itertools.product(sorted(across), sorted(down))))


def pillow_pixels(blob: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(8, 8), (9, 31), (161, 47), (64, 200)])
@pytest.mark.parametrize("step", [1, 3, 40])
def test_every_pixel_is_libjpeg_turbos(decode, sampling, size, step):
    """In a photo with noise, all coefficients occur."""
    random = np.random.default_rng(step)
    noise = random.integers(-60, 61, (size[1], size[0], 3))
    pixels = np.clip(photo(*size, seed=1).astype(int) + noise, 0, 255).astype(np.uint8)
    blob = indexed(pixels, sampling, [step] * 64)
    coefficients = dct.from_jpeg(blob)
    whole = pillow_pixels(blob)
    for side in {7, min(size), max(1, min(size) // 2)}:
        side = min(side, *size)
        corners = corners_of(size, side)
        for stored, mode in ((blob, JPEG), (coefficients, DCT)):
            decoded = decode(stored, size, corners, side, mode)
            for (left, top), found in zip(corners.tolist(), decoded, strict=True):
                assert np.array_equal(found, whole[top : top + side, left : left + side]), mode


@pytest.mark.skipif(
    platform.machine() != "x86_64" or "JSIMD_FORCENONE" in os.environ,
    reason="libjpeg-turbo's plain C gives other pixels here",
)
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("value", [100, 255])
@pytest.mark.parametrize("content", ["noise", "flat blocks"])
def test_absurd_coefficients_overflow_as_in_libjpeg_turbo(decode, sampling, value, content):
    """Coefficients of up to +-1023 times `value`: sums of 16 bits wrap, roundings saturate."""
    random = np.random.default_rng(value)
    if content == "noise":
        pixels = random.choice(np.array([0, 255], np.uint8), (48, 64, 3))
    else:  # coefficients of the first row alone, or of the mean alone
        columns = random.integers(0, 2, (6, 64, 3), dtype=np.uint8) * 255
        columns[::2] = np.repeat(columns[::2, ::16], 16, axis=1)
        pixels = np.repeat(columns, 8, axis=0)
    blob = with_tables(indexed(pixels, sampling, [1] * 64), value)
    blob = add_restart_index(blob)
    whole = pillow_pixels(blob)
    corners = corners_of((64, 48), 40)
    for stored, mode in ((blob, JPEG), (dct.from_jpeg(blob), DCT)):
        decoded = decode(stored, (64, 48), corners, 40, mode)
        for (left, top), found in zip(corners.tolist(), decoded, strict=True):
            assert np.array_equal(found, whole[top : top + 40, left : left + 40]), mode


def test_all_colors_are_libjpegs(decode):
    """All pairs of cb and cr occur, with several y.

    One block per pair, 256 x 256 blocks, would be slow, so that a block of 8 x 8 has 64 pairs.
    """
    random = np.random.default_rng(0)
    y = random.integers(0, 256, (256, 256), dtype=np.uint8)
    cb, cr = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    buffer = io.BytesIO()
    image = Image.merge("YCbCr", [Image.fromarray(plane) for plane in (y, cb, cr)])
    image.save(buffer, "JPEG", quality=100, subsampling="4:4:4")
    blob = add_restart_index(buffer.getvalue())
    assert np.array_equal(decode(blob, (256, 256), np.array([[0, 0]]), 256)[0], pillow_pixels(blob))


@pytest.mark.parametrize("kind", ["gray", "flat", "sparse"])
def test_runs_of_few_and_of_no_coefficients_decode_exactly(decode, kind):
    """There are runs of few groups and of none, and rows that end inside a run."""
    pixels = photo(300, 41, seed=4)
    if kind == "flat":
        pixels = np.full_like(pixels, 90)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("L" if kind == "gray" else "RGB").save(
        buffer, "JPEG", quality=10 if kind == "sparse" else 95
    )
    whole, corners = pillow_pixels(buffer.getvalue()), corners_of((300, 41), 30)
    decoded = decode(dct.from_jpeg(buffer.getvalue()), (300, 41), corners, 30, DCT)
    for (left, top), found in zip(corners.tolist(), decoded, strict=True):
        assert np.array_equal(found, whole[top : top + 30, left : left + 30])


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="scalar"):
        kernel_c.open_kernel("MMX")


class Batch:
    """Twelve images of a file in memory, and one crop of each."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        sizes = random.integers(20, 200, (12, 2))
        blobs = [
            add_restart_index(jpeg(photo(*map(int, size), seed=number)))
            for number, size in enumerate(sizes)
        ]
        blobs[7] = blobs[7][: len(blobs[7]) // 2]
        lengths = np.array([len(blob) for blob in blobs])
        modes = np.full(12, JPEG)
        self.images = kernel_c.stored_images(
            np.frombuffer(b"".join(blobs), np.uint8),
            np.cumsum(lengths) - lengths,
            lengths,
            modes,
            sizes[:, 0],
            sizes[:, 1],
        )
        self.positions = random.permutation(12)
        extents = random.integers(1, sizes[self.positions] + 1)
        corners = random.integers(0, sizes[self.positions] - extents + 1)
        self.boxes = np.concatenate([corners, extents], axis=1)
        self.flips = random.integers(0, 2, 12).astype(bool)

    def made_by(self, pool: kernel_c.Pool) -> np.ndarray:
        """Return the decoded crops, uint8 [*, 33, 33, 3], without that of the damaged image."""
        output, has_error = np.zeros((12, 33, 33, 3), np.uint8), np.full(12, 9, np.uint8)
        pool.make_batch(
            self.images,
            self.positions,
            self.boxes,
            self.flips,
            output,
            has_error,
            np.empty((0, 256), np.float16),
        )
        assert (has_error == np.where(self.positions == 7, kernel_c.DAMAGED, 0)).all()
        return output[has_error == 0]


@pytest.fixture(scope="module")
def batch():
    return Batch()


def num_tasks() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_any_number_of_threads_makes_the_same_batch(batch):
    expected = batch.made_by(kernel_c.Pool(1, "scalar"))
    for num_threads in (1, 2, 5, 40):
        pool = kernel_c.Pool(num_threads)
        for _ in range(5):
            assert np.array_equal(batch.made_by(pool), expected)


def test_positions_need_not_be_contiguous():
    """C reads the copy, which must exist until C returns."""
    n, side = 200, 4
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (n, side, side, 3), np.uint8)
    num_bytes = pixels[0].size
    images = kernel_c.stored_images(
        pixels.reshape(-1),
        num_bytes * np.arange(n),
        np.full(n, num_bytes),
        np.full(n, RAW),
        *np.full((2, n), side),
    )
    pool, boxes, flips = kernel_c.Pool(1), np.tile([0, 0, side, side], (n, 1)), np.zeros(n, bool)
    output, error_codes = np.zeros_like(pixels), np.zeros(n, np.uint8)
    arguments = boxes, flips, output, error_codes, np.empty((0, 256), np.float16)
    pool.make_batch(images, np.arange(n)[::-1], *arguments)
    assert (output == pixels[::-1]).all() and not error_codes.any()
    for beyond in (-1, n):
        with pytest.raises(AssertionError):
            pool.make_batch(images, np.full(n, beyond), *arguments)


def test_several_threads_may_use_one_pool(batch):
    pool = kernel_c.Pool(3)
    expected = batch.made_by(pool)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: batch.made_by(pool), range(40)))
    assert all(np.array_equal(one, expected) for one in made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own(batch):
    pool = kernel_c.Pool(3)
    expected = batch.made_by(pool)
    child = os.fork()
    if child == 0:
        same = np.array_equal(batch.made_by(pool), expected)
        pool.close()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(batch.made_by(pool), expected)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")
def test_a_thousand_pools_leave_no_thread_and_no_memory(batch):
    def resident_kb() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    before = num_tasks()
    for _ in range(50):
        batch.made_by(kernel_c.Pool(3))
    between = resident_kb()
    for number in range(1000):
        pool = kernel_c.Pool(3)
        batch.made_by(pool)
        if number % 2:
            pool.close()  # or simply dropped
    assert num_tasks() == before
    # A worker keeps about 200 kB, and 3000 workers are made. Memory that other tests left changes
    # the measurement by a few MB.
    assert resident_kb() < between + 60_000


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")
def test_images_without_an_end_marker_leak_no_tables():
    """libjpeg frees tables only with the decoder. New tables per image would take 60 MB here."""
    blob = add_restart_index(jpeg(photo(8, 8, seed=1)))
    n = 10_000
    pool = kernel_c.Pool(1)
    columns = (np.full(n, value) for value in (0, len(blob), JPEG, 8, 8))
    images = kernel_c.stored_images(np.frombuffer(blob, np.uint8), *columns)
    boxes, flips = np.tile([0, 0, 8, 8], (n, 1)), np.zeros(n, bool)
    output, has_error = np.zeros((n, 1, 1, 3), np.uint8), np.zeros(n, np.uint8)
    used = []
    for _ in range(4):
        pool.make_batch(
            images,
            np.arange(n),
            boxes,
            flips,
            output,
            has_error,
            np.empty((0, 256), np.float16),
        )
        lines = Path("/proc/self/status").read_text().splitlines()
        used += [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    assert not has_error.any()
    assert used[-1] < used[0] + 30_000
