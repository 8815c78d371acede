"""Pixels of every type are converted, never clipped; scaling by range is reported once."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from writers.beton.encode import UnreadableError, encode
from writers.beton.encoding import Encoding
from writers.beton.pixels import to_rgb
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.subset.spec import everything

RAMP = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)


def stored(values: np.ndarray, name: str = "TIFF") -> tuple[np.ndarray, bool]:
    """Encode through a file; return the gray channel, uint8 [H, W], and whether it was scaled."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, name)
    blob = encode(buffer.getvalue(), Encoding(format="raw"))
    rgb = np.frombuffer(blob.data, np.uint8).reshape(blob.height, blob.width, 3)
    assert (rgb == rgb[..., :1]).all()
    return rgb[..., 0], blob.is_scaled


def test_floats_in_0_1_are_multiplied():
    pixels, is_scaled = stored(RAMP)
    assert not is_scaled and (pixels == np.rint(RAMP.astype(np.float64) * 255)).all()


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1), (1000, 70_000), (0, 1e30), (0, 2)])
def test_other_floats_use_their_range(low: float, high: float):
    pixels, is_scaled = stored((RAMP * (high - low) + low).astype(np.float32))
    assert is_scaled and (pixels.min(), pixels.max()) == (0, 255)
    assert np.abs(pixels - RAMP * 255.0).max() <= 0.51
    assert not stored(np.full((8, 8), 0.5, np.float32))[1]
    assert stored(np.full((8, 8), 7.0, np.float32))[0].max() == 0


@pytest.mark.parametrize("name", ["TIFF", "PNG"])
def test_16_bits_are_divided(name: str):
    values = np.rint(RAMP * 65535).astype(np.uint16)
    pixels, is_scaled = stored(values, name)
    assert not is_scaled and (pixels == values // 257).all()


@pytest.mark.parametrize(
    ("high", "is_scaled"), [(255, False), (65_535, False), (70_000, True), (2**31 - 1, True)]
)
def test_32_bit_integers_keep_their_order_and_reach_the_ends(high: int, is_scaled: bool):
    values = np.rint(RAMP.astype(np.float64) * high).astype(np.int32)
    pixels, was_scaled = stored(values)
    assert was_scaled is is_scaled
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all()
    assert np.abs(pixels - RAMP * 255.0).max() <= 1


def test_signed_integers_use_their_range_and_dark_16_bit_files_stay_dark():
    assert stored(np.rint(RAMP * 200 - 100).astype(np.int32))[1]
    image = Image.fromarray(np.full((8, 8), 255, np.int32))
    image.format = "PNG"  # as Pillow before 12 opens 16 bits
    assert to_rgb(image).rgb.max() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float):
    values = RAMP.copy()
    values[3, 3] = value
    with pytest.raises(UnreadableError, match="not finite"):
        stored(values)


def test_the_writer_reports_classes_without_images_in_a_split(tmp_path: Path):
    for name, number in (("hat", 1), ("dress", 5), ("shoes", 5)):
        (tmp_path / "t" / name).mkdir(parents=True)
        for index in range(number):
            Image.fromarray(np.full((8, 8), 20 * index, np.uint8)).save(
                tmp_path / "t" / name / f"{index}.png"
            )
    source = open_dataset("folder", tmp_path / "t", SplitSettings(val=0, test=0.2))
    for split, expected in (
        ("train", []),
        ("test", ["test has no image of 1 of its 3 classes: hat"]),
    ):
        lines: list[str] = []
        write_split(
            source,
            split,
            everything(source.classes),
            Encoding(),
            tmp_path / f"{split}.beton",
            warn=lines.append,
        )
        assert lines == expected


def test_the_writer_reports_scaled_images_once(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / "t" / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(RAMP * (1 + 9 * (name == "a"))).save(
                tmp_path / "t" / name / f"{number}.tif"
            )
    source = open_dataset("folder", tmp_path / "t", SplitSettings(val=0))
    lines: list[str] = []
    classes = everything(source.classes)
    write_split(source, "train", classes, Encoding(), tmp_path / "train.beton", warn=lines.append)
    assert len(lines) == 1 and lines[0].startswith("train: images with values outside the usual")
    assert lines[0].endswith(": 3 (a/0, a/1, a/2)")
