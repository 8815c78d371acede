"""The C and the numba kernel give the pixels of Pillow's decoder and of the reference resize."""

import importlib.util
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from harness.cli.commands import doctor
from loaders import kernel, kernel_c
from loaders.backends import reference
from loaders.ffcv_parts import LIBRARY
from tests.helpers import ROOT
from tests.helpers.tiny_betons import photo
from writers.beton.encoding import JPEG, RAW
from writers.jpeg import native as writers_kernel
from writers.jpeg.restart_index import add_restart_index

needs_c = pytest.mark.skipif(
    importlib.util.find_spec("loaders._kernel") is None
    or importlib.util.find_spec("writers._kernel") is None,
    reason="the package's C parts were not built",
)


@pytest.fixture(scope="module", params=[*kernel_c.instruction_sets(), "numba"])
def decode_images(request):
    """Return the numba kernel, or the C kernel with one of this processor's instruction sets."""
    if request.param == "numba":
        request.getfixturevalue("numba_is_compiled")
        return kernel.open_kernel(LIBRARY, "numba")
    return kernel_c.open_kernel(request.param)


def saved(pixels: np.ndarray, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **{"quality": 92} | options)
    return buffer.getvalue()


def decode(
    decode_images,
    blobs: list[bytes],
    sizes: list[tuple[int, int]],
    boxes: np.ndarray,
    resolution: int,
    flips: np.ndarray | None = None,
    mode: int = JPEG,
    interpolation: str = "area",
) -> tuple[np.ndarray, np.ndarray]:
    """Decode boxes [N, 4] of the blobs to uint8 [N, R, R, 3]; also return the errors [N]."""
    n = len(blobs)
    lengths = np.array([len(blob) for blob in blobs])
    output, has_error = np.full((n, resolution, resolution, 3), 99, np.uint8), np.ones(n, bool)
    decode_images(
        np.frombuffer(b"".join(blobs), np.uint8),
        np.cumsum(lengths) - lengths,
        lengths,
        np.full(n, mode, np.uint8),
        np.array([size[0] for size in sizes]),
        np.array([size[1] for size in sizes]),
        boxes,
        np.zeros(n, bool) if flips is None else flips,
        output,
        has_error,
        np.empty((0, 256), np.float16),
        interpolation=interpolation,
    )
    return output, has_error


def random_boxes(random: np.random.Generator, sizes: list[tuple[int, int]]) -> np.ndarray:
    """Draw a box (left, top, width, height) within each size; int64 [N, 4]."""
    limits = np.array(sizes)
    extents = random.integers(1, limits + 1)
    return np.concatenate([random.integers(0, limits - extents + 1), extents], axis=1)


KINDS = {
    "4:2:0": {},
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "gray": {"mode": "L"},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "uneven restarts": {"restart_marker_blocks": 7},
    "rgb": {"keep_rgb": True},
    "optimized": {"optimize": True},
    "rough": {"quality": 5},
    "fine": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("indexed", [False, pytest.param(True, marks=needs_c)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_jpeg_has_pillows_pixels(decode_images, kind, indexed):
    """Boxes of R x R pixels are not resized."""
    for size in [(1, 1), (40, 40), (77, 45), (33, 130)]:
        blob = saved(photo(*size, seed=1), **KINDS[kind])
        blob = add_restart_index(blob) if indexed else blob
        side = min(20, *size)
        boxes = np.array([[0, 0, side, side], [size[0] - side, size[1] - side, side, side]])
        output, has_error = decode(decode_images, [blob] * 2, [size] * 2, boxes, side)
        whole = np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))
        assert not has_error.any()
        assert np.array_equal(output[0], whole[:side, :side])
        assert np.array_equal(output[1], whole[-side:, -side:])


def test_noise_with_long_huffman_codes_decodes_exactly(decode_images):
    noise = np.random.default_rng(0).integers(0, 256, (96, 112, 3), dtype=np.uint8)
    blobs = [
        saved(noise, quality=quality, subsampling="4:4:4", optimize=optimize)
        for quality in (30, 97, 100)
        for optimize in (False, True)
    ]
    output, has_error = decode(
        decode_images, blobs, [(112, 96)] * 6, np.array([[8, 0, 96, 96]] * 6), 96
    )
    assert not has_error.any()
    for blob, pixels in zip(blobs, output, strict=True):
        assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(blob)))[:, 8:104])


@needs_c
def test_kernels_agree_bit_for_bit():
    random = np.random.default_rng(4)
    sizes = [(int(width), int(height)) for width, height in random.integers(1, 150, (60, 2))]
    images = [photo(*size, seed=number) for number, size in enumerate(sizes)]
    plain = [
        saved(image, subsampling=["4:2:0", "4:4:4", "4:2:2"][number % 3])
        for number, image in enumerate(images)
    ]
    stored = {
        "raw": [image.tobytes() for image in images],
        "plain": plain,
        "indexed": [add_restart_index(x) for x in plain],
    }
    numba = kernel.open_kernel(LIBRARY, "numba")
    compiled = {name: kernel_c.open_kernel(name) for name in kernel_c.instruction_sets()}
    for resolution in (1, 2, 3, 31, 64, 224):
        boxes, flips = random_boxes(random, sizes), random.integers(0, 2, 60).astype(bool)
        for name, blobs in stored.items():
            mode = RAW if name == "raw" else JPEG
            expected, _ = decode(numba, blobs, sizes, boxes, resolution, flips, mode)
            for instructions, decode_images in compiled.items():
                pixels, _ = decode(decode_images, blobs, sizes, boxes, resolution, flips, mode)
                assert np.array_equal(pixels, expected), (name, resolution, instructions)


@pytest.mark.parametrize("resolution", [1, 5, 48, 130])
def test_resizing_equals_the_reference(decode_images, resolution):
    random = np.random.default_rng(resolution)
    sizes = [(int(width), int(height)) for width, height in random.integers(1, 300, (12, 2))]
    images = [photo(*size, seed=number) for number, size in enumerate(sizes)]
    boxes, flips = random_boxes(random, sizes), random.integers(0, 2, 12).astype(bool)
    output, _ = decode(
        decode_images, [image.tobytes() for image in images], sizes, boxes, resolution, flips, RAW
    )
    for pixels, image, (left, top, width, height), flip in zip(
        output, images, boxes.tolist(), flips, strict=True
    ):
        box = image[top : top + height, left : left + width]
        slow = reference.resize(box, resolution)
        assert np.array_equal(pixels, slow[:, ::-1] if flip else slow)
        exact = reference.exact_resize(box, resolution)
        assert np.abs(slow - exact).max() < 0.53  # half a level, plus rounding of 14-bit weights


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resolution", [1, 7, 48, 130])
def test_other_filters_equal_the_reference_and_pillow_within_one_level(
    decode_images, interpolation, resolution
):
    random = np.random.default_rng(resolution)
    sizes = [(1, 1), (2, 1), (3, 300), (299, 2), (900, 40)]
    sizes += [(int(width), int(height)) for width, height in random.integers(1, 300, (12, 2))]
    # With black and white noise, the filter exceeds both ends of the range.
    images = [
        random.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
        if number % 2
        else photo(width, height, seed=number)
        for number, (width, height) in enumerate(sizes)
    ]
    boxes, flips = random_boxes(random, sizes), random.integers(0, 2, len(sizes)).astype(bool)
    boxes[:5] = [[0, 0, *size] for size in sizes[:5]]
    blobs = [image.tobytes() for image in images]
    output, _ = decode(decode_images, blobs, sizes, boxes, resolution, flips, RAW, interpolation)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for pixels, image, (left, top, width, height), flip in zip(
        output, images, boxes.tolist(), flips, strict=True
    ):
        box = image[top : top + height, left : left + width]
        slow = reference.resize(box, resolution, interpolation)
        # Resize across, then down: Pillow 13 resizes high images down first, and clips in between.
        theirs = Image.fromarray(box)
        for size in ((resolution, height), (resolution, resolution)):
            theirs = theirs.resize(size, filters[interpolation])
        assert np.array_equal(pixels, slow[:, ::-1] if flip else slow)
        assert np.abs(slow.astype(int) - np.asarray(theirs)).max() <= 1


def test_weights_of_the_largest_sides_do_not_overflow():
    for interpolation in ("bilinear", "bicubic"):
        for source, target in ((65_500, 1), (65_500, 3), (1, 4000), (65_500, 224)):
            weights = reference.filter_weights(interpolation, source, target)
            assert (weights.sum(axis=1) == 2**14).all() and np.abs(weights).max() < 2**15


@pytest.mark.parametrize(
    ("size", "resolution"),
    [((500, 375), 224), ((301, 270), 224), ((230, 460), 224), ((131, 97), 5)],
)
def test_shrinking_is_opencvs_area_resize(decode_images, size, resolution):
    """Stock FFCV resizes with OpenCV.

    If one axis grows, OpenCV is bilinear along both axes. Here, axes are independent.
    """
    cv2 = pytest.importorskip("cv2")
    image = photo(*size, seed=8)
    output, _ = decode(
        decode_images, [image.tobytes()], [size], np.array([[0, 0, *size]]), resolution, mode=RAW
    )
    theirs = cv2.resize(image, (resolution, resolution), interpolation=cv2.INTER_AREA)
    difference = np.abs(output[0].astype(int) - theirs)
    # OpenCV rounds .5 to even.
    assert difference.max() <= 1 and difference.mean() < 0.02


@pytest.mark.parametrize(
    ("size", "resolution", "least_psnr", "most_mean"),
    [
        ((500, 375), 224, 29.0, 4.0),
        ((320, 320), 224, 29.0, 4.0),
        ((224, 224), 224, 99.0, 0.0),
        ((150, 112), 224, 50.0, 0.5),
    ],
)
def test_distance_from_torchvisions_antialiased_resize(
    decode_images, size, resolution, least_psnr, most_mean
):
    """When shrinking, torchvision's filter is a triangle twice as wide as our box filter.

    When enlarging, both are bilinear.
    """
    image = photo(*size, seed=6)
    output, _ = decode(
        decode_images, [image.tobytes()], [size], np.array([[0, 0, *size]]), resolution, mode=RAW
    )
    theirs = functional.resize(
        torch.from_numpy(image).permute(2, 0, 1), [resolution, resolution], antialias=True
    )
    error = output[0].astype(float) - theirs.permute(1, 2, 0).numpy()
    psnr = 10 * np.log10(255**2 / max((error**2).mean(), 1e-10))
    assert psnr > least_psnr and np.abs(error).mean() <= most_mean


@pytest.mark.parametrize(
    "damage",
    ["zeros", "cut short", "ends inside", "no jpeg", "no tables", "cmyk", "short last segment"],
)
def test_damage_sets_the_error_flag(decode_images, damage):
    blob = saved(photo(90, 70, seed=1), mode="CMYK" if damage == "cmyk" else "RGB")
    half = len(blob) // 2
    restarts = saved(photo(90, 70, seed=1), restart_marker_blocks=7)
    spoilt = {
        "zeros": bytes(len(blob)),
        "cut short": blob[:half],
        "ends inside": blob[:half] + b"\xff\xd9" + blob[half:],
        "no jpeg": b"\x89PNG" + blob,
        "no tables": blob.replace(b"\xff\xdb", b"\xff\xfe"),
        "cmyk": blob,
        "short last segment": restarts[:-5] + b"\xff\xd9",
    }[damage]
    good = saved(photo(90, 70, seed=1))
    output, has_error = decode(
        decode_images, [good, spoilt, good], [(90, 70)] * 3, np.array([[10, 5, 40, 40]] * 3), 40
    )
    assert has_error.tolist() == [False, True, False]
    assert np.array_equal(output[0], output[2])


@pytest.mark.parametrize("where", ["middle", "end"])
@pytest.mark.parametrize("kind", ["restarts", pytest.param("indexed", marks=needs_c)])
def test_a_zeroed_sector_is_an_error_after_a_warning_about_extraneous_bytes(
    decode_images, kind, where
):
    """Zeros are valid codes, and a few of them fill a segment.

    libjpeg skips the other zeros with a warning, and only then finds that a marker is missing.
    """
    blob = saved(
        photo(320, 240, seed=1), **{} if kind == "indexed" else {"restart_marker_blocks": 7}
    )
    blob = add_restart_index(blob) if kind == "indexed" else blob
    end = blob.rindex(b"\xff\xd9")
    begin = {"middle": end // 2, "end": end - 512}[where]
    spoilt = blob[:begin] + bytes(512) + blob[begin + 512 :]
    _, has_error = decode(
        decode_images, [blob, spoilt], [(320, 240)] * 2, np.array([[0, 0, 320, 240]] * 2), 64
    )
    assert has_error.tolist() == [False, True]


@needs_c
def test_extraneous_bytes_in_an_indexed_jpeg_are_an_error(decode_images):
    """libjpeg only warns about extraneous bytes before the end of the image."""
    blob = add_restart_index(
        saved(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    )
    begin, end = blob.index(b"\xff\xda") + 20, blob.rindex(b"\xff\xd9")
    spoilt = blob[:begin] + bytes(end - begin) + blob[end:]
    _, has_error = decode(
        decode_images, [blob, spoilt], [(16, 16)] * 2, np.array([[0, 0, 16, 16]] * 2), 16
    )
    assert has_error.tolist() == [False, True]


@needs_c
@pytest.mark.parametrize("indexed", [False, True])
def test_kernels_detect_the_same_damage(indexed):
    """If libjpeg-turbo reports no damage, both kernels decode the same wrong image."""
    random = np.random.default_rng(7)
    blob = saved(photo(120, 90, seed=1), optimize=True)
    blob = add_restart_index(blob) if indexed else blob
    spoilt = []
    for number in range(600):
        copy = bytearray(blob)
        begin = (
            0 if number % 2 else blob.index(b"\xff\xda")
        )  # the whole file, or only the coded data
        for place in random.integers(begin, len(blob), random.integers(1, 4)):
            copy[place] = random.choice(
                [0x00, 0xFF, random.integers(256), copy[place] ^ 1 << random.integers(8)]
            )
        spoilt.append(bytes(copy))
    boxes = np.array([[30, 20, 60, 60]] * len(spoilt))
    (c, c_errors), (numba, numba_errors) = (
        decode(kernel.open_kernel(LIBRARY, name), spoilt, [(120, 90)] * len(spoilt), boxes, 60)
        for name in ("c", "numba")
    )
    # In an indexed image, the C kernel checks the part more strictly; if it is damaged, the kernel
    # decodes the whole image.
    if not indexed:
        assert np.array_equal(c_errors, numba_errors)
    assert 50 < c_errors.sum() < 550
    whole = ~numba_errors & ~c_errors
    assert np.array_equal(c[whole], numba[whole])


PADDING = {
    "after the end": lambda blob, frame: blob + b"after the end",
    "filling": lambda blob, frame: blob[:frame] + b"\xff" * 5 + blob[frame:],
    "before the end": lambda blob, frame: blob[:-2] + bytes(40) + blob[-2:],
    "in the header": lambda blob, frame: blob[:frame] + b"two" + blob[frame:],
}


@pytest.mark.parametrize(
    "restarts",
    [{}, pytest.param({"restart_marker_blocks": 7}, marks=needs_c)],
    ids=["plain", "restarts"],
)
@pytest.mark.parametrize(
    "padding",
    ["after the end", "filling", "before the end", pytest.param("in the header", marks=needs_c)],
)
def test_padding_of_cameras_is_no_error(decode_images, padding, restarts):
    blob = saved(photo(90, 70, seed=1), **restarts)
    harmless = [blob, PADDING[padding](blob, blob.index(b"\xff\xc0"))]
    output, has_error = decode(
        decode_images, harmless, [(90, 70)] * 2, np.array([[10, 5, 40, 40]] * 2), 40
    )
    assert not has_error.any()
    assert np.array_equal(output[0], output[1])


@needs_c
def test_the_c_kernel_needs_no_numba_compilation():
    script = (
        "import sys, loaders; from loaders import kernel; kernel.open_kernel(None, 'c'); "
        "print('numba' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert ended.stdout == "False\n"


def test_doctor_reports_the_kernel_in_use(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert kernel.best_kernel() == "numba"
    assert "was not built. Install a C compiler" in kernel.describe()
    assert doctor._decoder().good


@needs_c
@pytest.mark.parametrize("other", ["version", "library"])
def test_a_kernel_of_other_sources_is_not_called(monkeypatch, other):
    """This happens after `git pull` without reinstallation. Very old libraries have no version."""
    assert kernel.best_kernel() == "c"
    assert kernel.describe() == f"C kernel, {kernel_c.instruction_sets()[0]}"
    assert doctor._decoder().good
    if other == "version":
        monkeypatch.setattr(kernel_c, "VERSION", kernel_c.VERSION + 1)
    else:
        monkeypatch.setattr(writers_kernel, "library_file", lambda module: LIBRARY)
    assert kernel.best_kernel() == "numba" and "is of another version" in kernel.describe()
    assert not doctor._decoder().good
    assert "loaders._kernel" in doctor._decoder().found
    assert "reinstall" in doctor._decoder().fix
