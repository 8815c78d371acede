"""Photographs decode to libjpeg-turbo's pixels in every storage format and by every kernel."""

import io
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from benchmarks import pixels
from loaders import kernel_c
from writers.jpeg import native

pytestmark = pytest.mark.skipif(
    kernel_c.library() is None or native.library() is None,
    reason="the package's C parts were not built",
)


def photographs() -> list[bytes]:
    """Photographs that scikit-learn and matplotlib contain: two in 4:4:4, one in 4:2:0."""
    folders = [
        Path(sklearn.datasets.__file__).parent / "images",
        Path(matplotlib.get_data_path()) / "sample_data",
    ]
    files = [file for folder in folders for file in sorted(folder.glob("*.jpg"))]
    if len(files) < 3:
        pytest.skip("scikit-learn or matplotlib was installed without its photographs")
    return [file.read_bytes() for file in files]


def recoded(jpeg: bytes, **options: object) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(jpeg)) as image:
        small = image.resize((image.width // 3, image.height // 3 - 1))
    small.convert(options.pop("mode", "RGB")).save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


def assert_equal(found: pixels.Compared) -> None:
    expected = {f"{form}, {name}" for form in pixels.MODES for name in pixels.kernels_of(form)}
    assert set(found.values) == expected and min(found.values.values()) > 100_000
    assert not any(found.different.values()) and not found.refused and not found.not_stored


def test_counts_are_written_as_json(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(recoded(photographs()[0]))
    record = tmp_path / "record.json"
    monkeypatch.setattr("sys.argv", ["pixels", str(tmp_path / "photos"), "--json", str(record)])
    pixels.main()
    counts = json.loads(record.read_text())["photos"]
    assert counts["images"] == 1 and counts["refused"] == {}
    assert set(counts["different"].values()) == {0}
    assert counts["values"].keys() == counts["different"].keys()


def test_every_reader_has_equal_pixels_for_unchanged_photographs():
    assert_equal(pixels.compare(photographs()))


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:2:0"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:4:4", "quality": 99},
        {"progressive": True},
        {"mode": "L"},
    ],
    ids=str,
)
def test_every_reader_has_equal_pixels_for_other_codings(options):
    assert_equal(pixels.compare([recoded(jpeg, **options) for jpeg in photographs()]))


def test_a_jpeg_that_dct_cannot_store_is_counted_and_decoded_in_the_other_forms():
    found = pixels.compare([recoded(photographs()[0], keep_rgb=True)])
    assert found.not_stored == {"dct": 1} and not any(found.different.values())
    assert "indexed, scalar" in found.values


def test_a_changed_value_is_counted(monkeypatch):
    original = pixels.stored_forms

    def changed(jpeg: bytes, levels: np.ndarray) -> dict[str, bytes | None]:
        forms = original(jpeg, levels)
        forms["raw"] = bytes([forms["raw"][0] ^ 1]) + forms["raw"][1:]
        return forms

    monkeypatch.setattr(pixels, "stored_forms", changed)
    found = pixels.compare([recoded(photographs()[0])])
    assert found.different["raw, scalar"] > 0 and found.different["dct, scalar"] == 0


def test_folders_and_tars_give_the_same_jpegs(tmp_path):
    import tarfile

    (tmp_path / "photos" / "a").mkdir(parents=True)
    for number, jpeg in enumerate(photographs()):
        (tmp_path / "photos" / "a" / f"{number}.JPG").write_bytes(jpeg)
    (tmp_path / "photos" / "readme.txt").write_text("no image")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(tmp_path / "photos", "photos")
    read = [list(pixels.jpegs_of(tmp_path / name)) for name in ("photos", "photos.tar")]
    assert read[0] == read[1] == photographs()
