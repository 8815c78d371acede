"""Pixels after encoding, for each kind of file in ImageNet and similar datasets."""

import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tests.helpers.pictures import picture
from writers.beton.encode import UnreadableError, encode
from writers.beton.encoding import JPEG, RAW, Encoding
from writers.jpeg.resize import shrink


def as_file(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(blob) -> np.ndarray:
    if blob.mode == RAW:
        return np.frombuffer(blob.data, np.uint8).reshape(blob.height, blob.width, 3)
    return np.asarray(Image.open(io.BytesIO(blob.data)).convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("RGB", "PNG"),
        ("RGB", "BMP"),
        ("L", "PNG"),
        ("P", "GIF"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("CMYK", "JPEG"),
        ("1", "PNG"),
    ],
)
def test_every_mode_is_converted_to_rgb_as_by_pillow(mode, format):
    image = picture(3, mode="RGB").convert(mode)
    data = as_file(image, format)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (pixels(encode(data, Encoding(format="raw"))) == expected).all()


def test_sixteen_bits_are_scaled_instead_of_clipped():
    values = np.linspace(0, 65535, 120 * 100).reshape(100, 120).astype(np.uint16)
    blob = encode(as_file(Image.fromarray(values), "PNG"), Encoding(format="raw"))
    # Both ways of rounding are valid.
    assert np.abs(pixels(blob)[..., 0] - values / 257.0).max() < 1


def test_values_outside_sixteen_bits_are_clipped():
    values = np.full((100, 120), 70000, np.int32)
    values[:50] = -3
    expected = np.where(values < 0, 0, 255)
    assert (
        pixels(encode(as_file(Image.fromarray(values), "TIFF"), Encoding(format="raw")))[..., 1]
        == expected
    ).all()


def test_exif_rotation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = as_file(picture(1, 120, 100), "JPEG", exif=exif)
    for format in ("raw", "jpeg", "passthrough"):
        blob = encode(data, Encoding(format=format))
        assert (blob.width, blob.height) == (120, 100)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (300, 200, (150, 100)),
        (200, 301, (100, 150)),
        (999, 3, (150, 1)),
        (150, 150, (150, 150)),
        (20, 150, (20, 150)),
    ],
)
def test_the_longer_side_is_shrunk_and_never_enlarged(width, height, expected):
    blob = encode(
        as_file(picture(1, width, height), "PNG"), Encoding(format="raw", max_resolution=150)
    )
    assert (blob.width, blob.height) == expected


def test_shrinking_to_a_half_takes_the_mean_of_four():
    image = picture(5, 200, 120)
    blob = encode(as_file(image, "PNG"), Encoding(format="raw", max_resolution=100))
    mean = np.asarray(image, float).reshape(60, 2, 100, 2, 3).mean((1, 3))
    assert np.abs(pixels(blob) - mean).max() <= 1  # rounded twice: rows, then columns


def test_jpeg_is_close_and_small_images_are_exact():
    large, small = picture(2, 200, 160), picture(2, 96, 80)
    blob = encode(as_file(large, "PNG"), Encoding())
    assert blob.mode == JPEG
    # JPEG of the default quality
    assert np.abs(pixels(blob) - np.asarray(large, float)).mean() < 3
    blob = encode(as_file(small, "PNG"), Encoding())
    assert blob.mode == RAW
    assert (pixels(blob) == np.asarray(small)).all()


def test_passthrough_reencodes_large_images_and_other_formats():
    encoding = Encoding(format="passthrough", max_resolution=150)
    kept = as_file(picture(1, 150, 100), "JPEG", progressive=True)
    assert encode(kept, encoding).data == kept
    for data in (
        as_file(picture(1, 151, 100), "JPEG"),
        as_file(picture(1, 150, 100).convert("CMYK"), "JPEG"),
        as_file(picture(1, 150, 100), "PNG"),
    ):
        blob = encode(data, encoding)
        assert blob.mode == JPEG
        assert blob.data != data


def test_mixed_depends_on_the_chance_of_each_image():
    data = as_file(picture(1, 150, 100), "PNG")
    encoding = Encoding(format="mixed", compress_probability=0.3)
    assert [encode(data, encoding, chance).mode for chance in (0.0, 0.29, 0.3, 0.99)] == [
        JPEG,
        JPEG,
        RAW,
        RAW,
    ]


@pytest.mark.parametrize(
    "data", [b"", b"words", as_file(picture(1), "PNG")[:200], as_file(picture(1), "JPEG")[:-300]]
)
@pytest.mark.parametrize("format", ["raw", "jpeg", "passthrough"])
def test_incomplete_images_are_unreadable(data, format):
    with pytest.raises(UnreadableError):
        encode(data, Encoding(format=format))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "mixed"}, "which needs it"),
        ({"compress_probability": 0.5}, "only used with format: mixed"),
        ({"format": "raw", "jpeg_quality": 80}, "no effect with format: raw"),
        ({"max_resolution": 0}, "greater than or equal to 1"),
        ({"jpeg_quality": 101}, "less than or equal to 100"),
        ({"quality": 90}, "Extra inputs"),
    ],
)
def test_invalid_or_ineffective_settings_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        Encoding.model_validate(settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "500_0.50_90",
            {
                "format": "mixed",
                "max_resolution": 500,
                "compress_probability": 0.5,
                "jpeg_quality": 90,
            },
        ),
        (
            "400_0.10_85",
            {
                "format": "mixed",
                "max_resolution": 400,
                "compress_probability": 0.1,
                "jpeg_quality": 85,
            },
        ),
        (
            "256_1.0_95",
            {
                "format": "mixed",
                "max_resolution": 256,
                "compress_probability": 1.0,
                "jpeg_quality": 95,
            },
        ),
        ("passthrough", {"format": "passthrough"}),
        ("raw", {"format": "raw"}),
        ("jpeg", {}),
    ],
)
def test_a_preset_is_parsed_from_its_name(name, settings):
    assert Encoding.model_validate(name) == Encoding(**settings)


@pytest.mark.parametrize("name", ["500_0.50", "500_2.0_90", "big", "mixed", "0_0.5_90", 5000.509])
def test_unknown_presets_are_refused(name):
    with pytest.raises(ValidationError):
        Encoding.model_validate(name)


SAMPLINGS = ["4:4:4", "4:2:2", "4:2:0"]


@pytest.mark.parametrize("size", [(200, 150), (199, 151), (333, 97), (121, 380), (98, 97)])
@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_shrinking_planes_equals_shrinking_pixels(size, subsampling):
    """Slow reference: decode to RGB, average the area of each new pixel, encode once."""
    data = as_file(picture(7, *size), "JPEG", quality=95, subsampling=subsampling)
    blob = encode(data, Encoding(max_resolution=97))
    expected = area_means(np.asarray(Image.open(io.BytesIO(data))), blob.width, blob.height)
    twin = np.asarray(
        Image.open(
            io.BytesIO(as_file(Image.fromarray(expected), "JPEG", quality=90, subsampling="4:2:0"))
        )
    )
    assert blob.mode == JPEG and max(blob.width, blob.height) == 97
    assert psnr(pixels(blob), expected) > psnr(twin, expected) - 1


def test_a_gray_jpeg_stays_gray():
    image = picture(7, 300, 201, "L")
    blob = encode(as_file(image, "JPEG", quality=95), Encoding(max_resolution=150))
    assert Image.open(io.BytesIO(blob.data)).mode == "L" and (blob.width, blob.height) == (150, 100)
    assert (
        psnr(pixels(blob)[..., 0], area_means(np.asarray(image)[..., None], 150, 100)[..., 0]) > 40
    )


def test_large_images_are_decoded_at_reduced_size_with_similar_pixels():
    image = picture(3, 1600, 1203)
    data = as_file(image, "JPEG", quality=95)
    for encoding, least in (
        (Encoding(format="raw", max_resolution=150), 45),
        (Encoding(max_resolution=150), 36),
    ):
        blob = encode(data, encoding)
        assert (blob.width, blob.height) == (150, 113)
        assert psnr(pixels(blob), area_means(np.asarray(image), 150, 113)) > least


def test_shrinking_is_exact_area_averaging_at_every_ratio():
    random = np.random.default_rng(0)
    for _ in range(60):
        height, width, channels = (
            random.integers(1, 90),
            random.integers(1, 90),
            random.choice([1, 3]),
        )
        new_height, new_width = random.integers(1, height + 1), random.integers(1, width + 1)
        image = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
        difference = shrink(image, new_width, new_height) - area_means(
            image, new_width, new_height, rounded=False
        )
        # half a level for rounding; weights have twelve bits
        assert np.abs(difference).max() < 0.75
    assert (shrink(np.full((70, 4001, 3), 255, np.uint8), 13, 7) == 255).all()


def area_means(image: np.ndarray, width: int, height: int, rounded: bool = True) -> np.ndarray:
    """Resize an image to height x width by the mean of the area that each new pixel covers.

    Uses weight matrices [height, H] and [width, W], with one row per new pixel.
    """

    def parts(old: int, new: int) -> np.ndarray:
        edges = np.arange(new + 1) * old / new
        begins, ends = (
            np.maximum(edges[:-1, None], np.arange(old)),
            np.minimum(edges[1:, None], np.arange(1, old + 1)),
        )
        return np.maximum(ends - begins, 0) * new / old

    rows = np.tensordot(parts(image.shape[0], height), image.astype(float), (1, 0))
    means = np.tensordot(rows, parts(image.shape[1], width), (1, 1)).transpose(0, 2, 1)
    return np.rint(means).astype(np.uint8) if rounded else means


def psnr(image: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((image.astype(float) - expected) ** 2)))


PHOTO = as_file(picture(1, 160, 120), "JPEG", quality=95)
MIDDLE = len(PHOTO) // 2
WITH_RESTARTS = as_file(picture(1, 160, 120), "JPEG", restart_marker_blocks=4)
FIRST_RESTART = WITH_RESTARTS.index(b"\xff\xd0")


@pytest.mark.parametrize(
    "data",
    [
        PHOTO[:-2],
        PHOTO[:MIDDLE],
        PHOTO[:MIDDLE] + b"\xff\xc0" + PHOTO[MIDDLE:],
        WITH_RESTARTS[:FIRST_RESTART] + b"\xff\xd3" + WITH_RESTARTS[FIRST_RESTART + 2 :],
        PHOTO[:20] + b"\xff\xe1\xff\xff" + PHOTO[20:],
    ],
    ids=["no end", "half", "strange marker", "restarts", "long segment"],
)
@pytest.mark.parametrize("check", [False, True])
def test_passthrough_detects_broken_markers_without_decoding(data, check):
    with pytest.raises(UnreadableError, match="the JPEG is damaged"):
        encode(data, Encoding(format="passthrough"), check=check)


@pytest.mark.parametrize(
    "data",
    [PHOTO[:MIDDLE] + PHOTO[MIDDLE + 200 :], PHOTO[:MIDDLE] + b"\xff\xd9" + PHOTO[MIDDLE:]],
    ids=["bytes lost", "early end"],
)
def test_damage_between_markers_is_detected_when_decoding(data):
    assert encode(data, Encoding(format="passthrough"), check=False).data == data
    for encoding, check in (
        (Encoding(format="passthrough"), True),
        (Encoding(), False),
        (Encoding(format="raw"), False),
        (Encoding(format="passthrough", max_resolution=100), False),
    ):
        with pytest.raises(UnreadableError, match="the JPEG is damaged"):
            encode(data, encoding, check=check)


def test_extra_bytes_of_cameras_around_the_end_are_accepted():
    for data in (
        PHOTO[:-2] + bytes(40) + PHOTO[-2:],
        PHOTO + b"a trailer \xff\xd8\xff\xc0",
        WITH_RESTARTS,
        as_file(picture(1, 160, 120), "JPEG", progressive=True),
    ):
        assert encode(data, Encoding(format="passthrough"), check=True).data == data
        assert encode(data, Encoding()).mode == JPEG


def test_small_jpegs_are_passed_through_and_never_encoded_again():
    small = as_file(picture(1, 96, 60), "JPEG")
    assert encode(small, Encoding(format="passthrough")).data == small
    assert (
        encode(small, Encoding()).mode
        == encode(small, Encoding(format="passthrough", max_resolution=80)).mode
        == RAW
    )


def test_an_image_with_too_many_pixels_is_refused_before_allocation():
    data = bytearray(PHOTO)
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xea\x60\xea\x60"
    for encoding, check in (
        (Encoding(), False),
        (Encoding(format="raw"), False),
        (Encoding(format="passthrough"), True),
    ):
        with pytest.raises(UnreadableError, match="60000 x 60000 pixels"):
            encode(bytes(data), encoding, check=check)
