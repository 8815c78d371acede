"""Restart-indexed JPEGs: equal pixels in every decoder, reproducible bytes, named damage."""

import ctypes
import ctypes.util
import importlib.util
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import picture
from writers.beton.encode import UnreadableError, encode
from writers.beton.encoding import Encoding
from writers.errors import UserError
from writers.jpeg import native, turbojpeg
from writers.jpeg.restart_index import (
    BLOCKS_WANTED,
    FOOTER,
    MAGIC,
    DamagedJpegError,
    Frame,
    add_restart_index,
    encode_indexed,
    read_frame,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("writers._kernel") is None,
    reason="the package's C parts were not built",
)

TURBO_SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2, "gray": 3, "4:4:0": 4, "4:1:1": 5}


def saved(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90} | options)
    return buffer.getvalue()


def textured(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return Image.fromarray(
        np.clip(np.asarray(picture(seed, width, height)) + noise, 0, 255).astype(np.uint8)
    )


def pixels(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image)


def footer_of(jpeg: bytes) -> np.void | None:
    """Return the footer of the restart index, or None if there is no index."""
    footer = np.frombuffer(jpeg[-FOOTER.itemsize :], FOOTER)[0]
    return footer if footer["magic"] == MAGIC else None


def check(source: bytes) -> bytes:
    """Return the indexed form of `source` after checking its guarantees."""
    indexed = add_restart_index(source)
    footer, frame = footer_of(indexed), read_frame(indexed)
    assert footer is not None and frame is not None
    assert np.array_equal(pixels(indexed), pixels(source))
    assert add_restart_index(source) == indexed == add_restart_index(indexed)

    end = len(indexed) - FOOTER.itemsize - 2 * int(footer["num_segments"])
    lengths = np.frombuffer(indexed, "<u2", int(footer["num_segments"]), end)
    assert (footer["frame"], footer["scan"], footer["interval"]) == (
        frame.offset,
        frame.scan,
        frame.interval,
    )
    assert frame.mcus_per_row % frame.interval == 0
    assert footer["num_segments"] * frame.interval == frame.num_mcus
    assert indexed[frame.offset + 1] in (0xC0, 0xC1)
    assert footer["checksum"] == zlib.crc32(indexed[: frame.scan] + indexed[end:-12])
    position = frame.scan
    for number, length in enumerate(lengths.tolist()):
        position += length
        marker = 0xD9 if number == len(lengths) - 1 else 0xD0 + number % 8
        assert indexed[position - 2 : position] == bytes((0xFF, marker))
    assert position == end
    return indexed


@pytest.mark.parametrize(
    "size", [(1, 1), (7, 5), (16, 16), (17, 1), (1, 40), (200, 9), (131, 77), (500, 375)]
)
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:2:0"},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"progressive": True},
        {"optimize": True},
        {"keep_rgb": True},
        {"restart_marker_blocks": 5},
        {"restart_marker_rows": 1},
    ],
    ids=str,
)
def test_an_index_keeps_the_pixels_of_every_size_and_kind(size, options):
    check(saved(textured(*size), **options))


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_an_index_keeps_gray_pixels(options):
    check(saved(textured(61, 47).convert("L"), **options))


@pytest.mark.skipif(
    ctypes.util.find_library("turbojpeg") is None, reason="needs libturbojpeg, to make such JPEGs"
)
@pytest.mark.parametrize("subsampling", TURBO_SUBSAMPLINGS)
def test_an_index_keeps_the_pixels_of_every_subsampling(subsampling):
    check(by_turbo(np.asarray(textured(213, 100)), TURBO_SUBSAMPLINGS[subsampling]))


def by_turbo(image: np.ndarray, subsampling: int) -> bytes:
    """Compress an image, uint8 [H, W, 3], with libjpeg-turbo: it has subsamplings that Pillow lacks.

    `subsampling` is a number of its enum TJSAMP.
    """
    turbo = ctypes.CDLL(ctypes.util.find_library("turbojpeg"))
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
            90,
            0,
        )
        == 0
    )
    jpeg = ctypes.string_at(result, size.value)
    turbo.tjFree(result)
    turbo.tjDestroy(handle)
    return jpeg


def test_separate_scans_per_color_are_merged():
    planes = [saved(plane, quality=85) for plane in textured(70, 50).convert("YCbCr").split()]
    frame, scan = read_frame(planes[0]).offset, read_frame(planes[0]).scan
    header, tables = planes[0][:frame], planes[0][frame + 13 : scan - 10]
    frame_of_three = (
        b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 50, 70, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    )
    scans = b"".join(
        b"\xff\xda\0\x08\1" + bytes([number, 0, 0, 63, 0]) + plane[scan:-2]
        for number, plane in enumerate(planes, start=1)
    )
    source = header + frame_of_three + tables + scans + b"\xff\xd9"
    assert pixels(source).shape == (50, 70, 3)
    check(source)


@pytest.mark.parametrize("gray", [False, True], ids=["4:2:0", "gray"])
def test_coding_planes_in_one_step_equals_two_steps(gray):
    rng = np.random.default_rng(3)
    for width, height in [(1, 1), (16, 16), (17, 33), *rng.integers(1, 140, (20, 2)).tolist()]:
        image = turbojpeg.new_planes(width, height, gray=gray)
        for plane in image.planes:
            plane[:] = np.clip(
                np.add.outer(np.arange(plane.shape[0]), np.arange(plane.shape[1]))
                + rng.normal(60, 30, plane.shape),
                0,
                255,
            )
        quality = int(rng.integers(1, 101))
        assert encode_indexed(image, quality) == add_restart_index(
            turbojpeg.encode_planes(image, quality)
        )


def test_markers_inside_metadata_are_ignored():
    thumbnail = saved(textured(32, 24))
    exif = Image.Exif()
    exif[0x9286] = thumbnail + b"\xff\xd9\xff\xda\xff\xc2"
    source = saved(
        textured(90, 60),
        exif=exif,
        comment=b"\xff\xd8\xff\xc0 in a comment",
        icc_profile=b"\xff\xda" * 40,
    )
    assert thumbnail in source and thumbnail not in check(source)


def test_fill_bytes_and_bytes_after_the_end_are_removed():
    source = saved(textured(90, 60))
    frame = read_frame(source)
    filled = source[: frame.offset] + b"\xff" * 7 + source[frame.offset :]
    assert check(filled) == check(source + b"after the end \xff\xda\xff\xd9") == check(source)
    padded = source[:-2] + bytes(40) + source[-2:]  # as written by some cameras
    assert check(padded) == check(source)


@pytest.mark.parametrize("restarts", [{}, {"restart_marker_blocks": 7}], ids=["plain", "restarts"])
def test_padding_of_cameras_is_accepted(restarts):
    source = saved(textured(90, 60), **restarts)
    frame = read_frame(source)
    expected = encode(source, Encoding(), check=True)
    for left in (
        source[:-2] + b"camera" + source[-2:],
        source[: frame.offset] + b"two" + source[frame.offset :],
    ):
        assert turbojpeg.check(left) == (90, 60)
        assert encode(left, Encoding(), check=True) == expected


@pytest.mark.parametrize("indexed", [False, True])
def test_a_zeroed_sector_is_damage_although_the_first_warning_is_harmless(indexed):
    """Zeros are valid codes that fill a segment early; only afterwards is a marker missing."""
    noise = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    )
    source = (
        saved(noise, quality=85) if indexed else saved(noise, quality=85, restart_marker_blocks=7)
    )
    source = add_restart_index(source) if indexed else source
    scan, end = read_frame(source).scan, source.rindex(b"\xff\xd9")
    for place in [*np.linspace(scan, end - 4096, 10).astype(int).tolist(), end - 4096]:
        spoilt = source[:place] + bytes(4096) + source[place + 4096 :]
        with pytest.raises(turbojpeg.JpegError, match="marker"):
            turbojpeg.check(spoilt)
        for encoding in (
            Encoding(),
            Encoding(max_resolution=200),
            Encoding(format="raw"),
            Encoding(format="passthrough"),
        ):
            with pytest.raises(UnreadableError, match=r"marker|order"):
                encode(spoilt, encoding, check=True)


def test_without_the_c_library_extra_bytes_are_only_accepted_at_the_end(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    plain, restarts = saved(textured(90, 60)), saved(textured(90, 60), restart_marker_blocks=7)
    assert turbojpeg.check(plain[:-2] + bytes(9) + plain[-2:]) == (90, 60)
    for doubtful in (restarts[:-2] + bytes(9) + restarts[-2:], plain[:2] + b"two" + plain[2:]):
        with pytest.raises(turbojpeg.JpegError, match="extraneous"):
            turbojpeg.check(doubtful)


@pytest.mark.parametrize("kind", ["CMYK", "arithmetic", "12 bits", "12 blocks"])
def test_unsupported_jpegs_are_unchanged(kind):
    image = textured(90, 60)
    source = bytearray(saved(image.convert("CMYK") if kind == "CMYK" else image))
    frame = source.index(b"\xff\xc0")
    if kind == "arithmetic":
        source[frame + 1] = 0xC9
    elif kind == "12 bits":
        source[frame + 4] = 12
    elif kind == "12 blocks":
        source[frame + 11] = source[frame + 14] = source[frame + 17] = 0x22
    assert add_restart_index(bytes(source)) == source


def test_an_incomplete_progressive_image_is_unchanged():
    """Decoders smooth it, unlike the same coefficients in one scan."""
    source = saved(textured(200, 150), progressive=True)
    scans = [place for place in range(len(source)) if source[place : place + 2] == b"\xff\xda"]
    assert len(scans) > 5
    tables = source.rindex(b"\xff\xc4", 0, scans[-1])
    cut = source[:tables] + b"\xff\xd9"
    assert add_restart_index(cut) == cut


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda jpeg: b"", "does not begin"),
        (lambda jpeg: b"GIF89a" + jpeg, "does not begin"),
        (lambda jpeg: jpeg[:100], "cut short"),
        (lambda jpeg: jpeg[:2] + b"\xff\xd9" + jpeg[2:], "before its first scan"),
        (lambda jpeg: jpeg[: len(jpeg) // 2], "Premature end"),
        (
            lambda jpeg: jpeg[: len(jpeg) // 2] + b"\xff\xd9" + jpeg[len(jpeg) // 2 :],
            "data segment",
        ),
        (lambda jpeg: jpeg.replace(b"\xff\xdb", b"\xff\xfe"), "[Qq]uantization table"),
    ],
)
def test_damage_is_named(damage, why):
    with pytest.raises(DamagedJpegError, match=why):
        add_restart_index(damage(saved(textured(150, 100))))


def test_damage_never_ends_the_process():
    """Damage either gives another valid JPEG or is refused.

    libjpeg's default error handler would end the process.
    """
    source, random = saved(textured(64, 48)), np.random.default_rng(5)
    outcomes = set()
    for _ in range(600):
        spoilt = bytearray(source)
        for place in random.integers(0, len(source), random.integers(1, 4)):
            spoilt[place] = random.choice([0x00, 0xFF, random.integers(256)])
        try:
            add_restart_index(bytes(spoilt))
            outcomes.add("whole")
        except DamagedJpegError as error:
            assert str(error)
            outcomes.add("damaged")
    assert outcomes == {"whole", "damaged"}


def test_the_index_adds_less_than_one_percent():
    source = saved(textured(500, 375), quality=85, subsampling="4:2:0")
    assert len(add_restart_index(source)) < 1.01 * len(source)


@pytest.mark.parametrize(
    ("mcus_per_row", "blocks", "interval"),
    [
        (32, 6, 2),
        (31, 6, 1),
        (25, 6, 1),
        (27, 6, 3),
        (63, 3, 3),
        (64, 3, 4),
        (63, 1, 9),
        (61, 1, 61),
        (1, 6, 1),
        (35, 4, 5),
    ],
)
def test_the_interval_divides_the_row_and_is_near_the_target(mcus_per_row, blocks, interval):
    assert BLOCKS_WANTED == 12
    assert Frame(1, 1, 0, 0, blocks, mcus_per_row, mcus_per_row).interval == interval


@pytest.mark.parametrize("settings", [{"format": "passthrough"}, {"format": "jpeg"}])
def test_encodings_with_an_index_add_it(settings):
    source = saved(textured(150, 100))
    with_index = encode(source, Encoding(restart_index=True, **settings))
    without = encode(source, Encoding(restart_index=False, **settings))
    assert footer_of(with_index.data) is not None and footer_of(without.data) is None
    assert np.array_equal(pixels(with_index.data), pixels(without.data))
    assert (with_index.width, with_index.height) == (150, 100)


def test_damage_that_pillow_ignores_is_refused():
    source = saved(textured(150, 100))
    spoilt = source[: len(source) // 2] + b"\xff\xd9" + source[len(source) // 2 :]
    with pytest.raises(UnreadableError, match="data segment"):
        encode(spoilt, Encoding(format="passthrough", restart_index=True))


def test_without_the_c_library_a_user_error_is_raised(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    native.library.cache_clear()
    with pytest.raises(UserError, match="C part"):
        encode(saved(textured(20, 20)), Encoding(format="passthrough", restart_index=True))
    monkeypatch.undo()
    native.library.cache_clear()
