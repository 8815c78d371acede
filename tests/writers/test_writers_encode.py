"""What becomes of an image's pixels, for every kind of file that ImageNet and its like contain."""

import io

import numpy as np
import pytest
from pictures import picture
from PIL import Image
from pydantic import ValidationError

from writers.encode import JPEG, RAW, Encoding, Unreadable, encode


def as_file(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(blob) -> np.ndarray:
    if blob.mode == RAW:
        return np.frombuffer(blob.data, np.uint8).reshape(blob.height, blob.width, 3)
    return np.asarray(Image.open(io.BytesIO(blob.data)).convert("RGB"))


@pytest.mark.parametrize(("mode", "format"), [("RGB", "PNG"), ("RGB", "BMP"), ("L", "PNG"), ("P", "GIF"), ("P", "PNG"),
                                              ("RGBA", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"), ("1", "PNG")])
def test_every_mode_becomes_the_rgb_that_pillow_makes_of_it(mode, format):
    image = picture(3, mode="RGB").convert(mode)
    data = as_file(image, format)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (pixels(encode(data, Encoding(format="raw"))) == expected).all()


def test_sixteen_bits_are_scaled_and_not_clipped():
    values = np.linspace(0, 65535, 120 * 100).reshape(100, 120).astype(np.uint16)
    blob = encode(as_file(Image.fromarray(values), "PNG"), Encoding(format="raw"))
    assert np.abs(pixels(blob)[..., 0] - values / 257.0).max() <= 1


def test_more_than_sixteen_bits_become_white_and_less_than_none_black():
    values = np.full((100, 120), 70000, np.int32)
    values[:50] = -3
    expected = np.where(values < 0, 0, 255)
    assert (pixels(encode(as_file(Image.fromarray(values), "TIFF"), Encoding(format="raw")))[..., 1] == expected).all()


def test_exif_rotation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = as_file(picture(1, 120, 100), "JPEG", exif=exif)
    for format in ("raw", "jpeg", "passthrough"):
        blob = encode(data, Encoding(format=format))
        assert (blob.width, blob.height) == (120, 100)


@pytest.mark.parametrize(("width", "height", "expected"), [
    (300, 200, (150, 100)), (200, 301, (100, 150)), (999, 3, (150, 1)), (150, 150, (150, 150)), (20, 150, (20, 150))])
def test_the_longer_side_is_shrunk_and_never_enlarged(width, height, expected):
    blob = encode(as_file(picture(1, width, height), "PNG"), Encoding(format="raw", max_resolution=150))
    assert (blob.width, blob.height) == expected


def test_shrinking_to_a_half_takes_the_mean_of_four():
    image = picture(5, 200, 120)
    blob = encode(as_file(image, "PNG"), Encoding(format="raw", max_resolution=100))
    mean = np.asarray(image, float).reshape(60, 2, 100, 2, 3).mean((1, 3))
    assert np.abs(pixels(blob) - mean).max() <= 1        # rounded twice: rows, then columns


def test_jpeg_is_close_and_small_images_are_exact():
    large, small = picture(2, 200, 160), picture(2, 96, 80)
    blob = encode(as_file(large, "PNG"), Encoding())
    assert blob.mode == JPEG
    assert np.abs(pixels(blob) - np.asarray(large, float)).mean() < 3
    blob = encode(as_file(small, "PNG"), Encoding())
    assert blob.mode == RAW
    assert (pixels(blob) == np.asarray(small)).all()


def test_passthrough_reencodes_what_is_too_large_or_no_plain_jpeg():
    encoding = Encoding(format="passthrough", max_resolution=150)
    kept = as_file(picture(1, 150, 100), "JPEG", progressive=True)
    assert encode(kept, encoding).data == kept
    for data in (as_file(picture(1, 151, 100), "JPEG"), as_file(picture(1, 150, 100).convert("CMYK"), "JPEG"),
                 as_file(picture(1, 150, 100), "PNG")):
        blob = encode(data, encoding)
        assert blob.mode == JPEG
        assert blob.data != data


def test_mixed_goes_by_the_images_own_chance():
    data = as_file(picture(1, 150, 100), "PNG")
    encoding = Encoding(format="mixed", compress_probability=0.3)
    assert [encode(data, encoding, chance).mode for chance in (0.0, 0.29, 0.3, 0.99)] == [JPEG, JPEG, RAW, RAW]


@pytest.mark.parametrize("data", [b"", b"words", as_file(picture(1), "PNG")[:200], as_file(picture(1), "JPEG")[:-300]])
@pytest.mark.parametrize("format", ["raw", "jpeg", "passthrough"])
def test_what_is_no_whole_image_is_unreadable(data, format):
    with pytest.raises(Unreadable):
        encode(data, Encoding(format=format))


@pytest.mark.parametrize("settings", [
    {"format": "mixed"}, {"compress_probability": 0.5}, {"format": "raw", "jpeg_quality": 80}, {"max_resolution": 0},
    {"jpeg_quality": 101}, {"quality": 90}])
def test_settings_that_are_wrong_or_without_effect(settings):
    with pytest.raises(ValidationError):
        Encoding.model_validate(settings)
