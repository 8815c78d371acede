"""EXIF orientations are read as Pillow reads them, and reported when a `.beton` file is written."""

import io
import random
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.pictures import picture
from writers.beton.encoding import Encoding
from writers.beton.write import TURNED, write_split
from writers.dataset import open_dataset
from writers.jpeg.orientation import orientation
from writers.source import SplitSettings
from writers.subset.spec import everything

TAG = 0x0112


def jpeg(number: int | None, endian: str = "<", seed: int = 0, form: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F] = "a camera"
    if number is not None:
        exif[TAG] = number
    file = io.BytesIO()
    picture(seed, 24, 16).save(file, form, exif=exif.tobytes())
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("number", [None, *range(1, 9)])
def test_orientations_are_those_of_pillow(number: int | None, endian: str, form: str):
    data = jpeg(number, endian, form=form)
    with Image.open(io.BytesIO(data)) as image:
        assert orientation(data) == image.getexif().get(TAG, 1) == (number or 1)


def test_damaged_exif_is_upright_or_as_read_and_never_an_error():
    draws, whole = random.Random(0), jpeg(6)
    begin = whole.index(b"Exif")
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(draws.randint(1, 4)):
            data[begin + draws.randrange(6, 80)] = draws.randrange(256)
        assert 1 <= orientation(bytes(data[: draws.choice([len(data), begin + 20])])) <= 8
    assert orientation(b"") == orientation(b"\xff\xd8Exif\0\0") == 1


@pytest.mark.parametrize("form", ["jpeg", "raw", "passthrough"])
def test_turned_images_are_counted_and_stored_as_they_are(tmp_path: Path, form: str):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for number in (1, 3, 6, 8):
        (tmp_path / "photos" / "cat" / f"{number}.jpg").write_bytes(jpeg(number, seed=number))
    source = open_dataset("folder", tmp_path / "photos", SplitSettings(val=0.0, test=0.0))
    lines: list[str] = []
    manifest = write_split(
        source,
        "train",
        everything(source.classes),
        Encoding(format=form),
        tmp_path / "train.beton",
        warn=lines.append,
    )
    assert lines == [f"train: {TURNED}: 3 (cat/3, cat/6, cat/8)"]
    assert manifest.num_samples == 4
