"""Boxes in `.beton` files: stock FFCV reads them; they are scaled, verified and joined.

Invalid boxes are refused.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.boxed_source import CLASSES, SIZES, expected, source_of
from tests.helpers.reseal import reseal
from writers.beton.boxes import BoxError, blob_of
from writers.beton.card import card
from writers.beton.concat import concat_splits
from writers.beton.copy import copy_subset
from writers.beton.encoding import Encoding
from writers.beton.store import Beton, Manifest, open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.source import BoxLabel, Example, ids_of
from writers.subset.spec import everything

RAW, INDEXED = Encoding(format="raw"), Encoding(format="jpeg")


def write(file: Path, encoding: Encoding = RAW, numbers: range = range(6)) -> Manifest:
    return write_split(source_of(numbers), "train", everything(CLASSES), encoding, file)


def number_of(beton: Beton) -> list[int]:
    """Numbers of the images in file order."""
    ids = ids_of([Example("", 0, str(number)) for number in range(6)]).tolist()
    return [ids.index(sample) for sample in beton.ids.tolist()]


@pytest.mark.parametrize("encoding", [RAW, INDEXED, Encoding(format="dct")])
def test_boxes_are_read_as_written(encoding: Encoding, tmp_path: Path):
    manifest = write(tmp_path / "a.beton", encoding)
    assert verify(tmp_path / "a.beton") == [] and manifest.has_boxes
    beton = open_beton(tmp_path / "a.beton")
    assert beton.has_boxes and sorted(number_of(beton)) == list(range(6))
    for place, number in enumerate(number_of(beton)):
        boxes = beton.boxes(place)
        assert boxes.dtype == np.float32 and np.array_equal(boxes, expected(number))
    assert beton.boxes(number_of(beton).index(1)).shape == (0, 6)
    with pytest.raises(IndexError):
        beton.boxes(6)
    again = write_split(
        source_of(range(6)), "train", everything(CLASSES), encoding, tmp_path / "b", num_threads=3
    )
    assert again == manifest
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a.beton").read_bytes()


def test_ffcv_itself_reads_images_labels_and_boxes(tmp_path: Path):
    from ffcv.fields import BytesField
    from ffcv.fields.bytes import BytesDecoder
    from ffcv.fields.ndarray import NDArrayDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader

    import loaders.ffcv_parts  # noqa: F401  without it, FFCV's loaders change numba's types

    file = tmp_path / "a.beton"
    write(file)
    beton, reader = open_beton(file), Reader(str(file))
    assert list(reader.field_names) == ["image", "label", "boxes"]
    assert type(reader.handlers["boxes"]) is BytesField
    sizes = reader.metadata["f2"]["size"].tolist()
    loader = Loader(
        str(file),
        batch_size=1,  # FFCV does not clear the rest of its memory if a sample is shorter
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        os_cache=True,
        pipelines={
            "image": [CenterCropRGBImageDecoder((32, 32), 1.0)],
            "label": [NDArrayDecoder()],
            "boxes": [BytesDecoder()],
        },
    )
    seen = 0
    for place, (_, labels, data) in enumerate(loader):
        values = np.asarray(data)[0, : sizes[place]].tobytes()
        rows = np.frombuffer(values, "<f4").reshape(-1, 6)
        own = rows[rows[:, 4] >= 0]
        assert np.array_equal(own, beton.boxes(place))
        assert np.array_equal(np.asarray(labels)[0], beton.labels[place])
        seen += 1
    assert seen == 6


def test_boxes_shrink_with_their_image(tmp_path: Path):
    write(tmp_path / "a.beton", Encoding(format="raw", max_resolution=64))
    beton = open_beton(tmp_path / "a.beton")
    for place, number in enumerate(number_of(beton)):
        row, (width, height) = beton.rows[place], SIZES[number]
        scale = np.array([row["width"] / width, row["height"] / height] * 2, np.float64)
        wanted = expected(number)
        wanted[:, :4] = wanted[:, :4].astype(np.float64) * scale
        assert np.allclose(beton.boxes(place), wanted, atol=1e-4)
        assert max(row["width"], row["height"]) == min(64, *[max(width, height)])


def test_boxes_are_clipped_to_the_image_within_a_pixel():
    blob = blob_of((BoxLabel(-1, 0, 11, 8.5, 2),), b"", (10, 8), is_resized=False)
    assert np.frombuffer(blob, "<f4").tolist() == [0, 0, 10, 8, 2, 0]
    for left, right in ((-1.1, 5), (5, 11.1), (-1, 0), (10, 11), (5, 5), (float("nan"), 5)):
        with pytest.raises(BoxError, match="box 1 is from x"):
            blob_of((BoxLabel(left, 0, right, 8, 2),), b"", (10, 8), is_resized=False)
    with pytest.raises(BoxError, match="empty"):
        blob_of((BoxLabel(5, 0, 5 + 1e-9, 8, 2),), b"", (10, 8), is_resized=False)


def test_any_changed_byte_of_the_boxes_is_found(tmp_path: Path):
    file = tmp_path / "a.beton"
    write(file)
    beton = open_beton(file)
    place = number_of(beton).index(2)
    start, size = (int(beton.rows[place][name]) for name in ("boxes_offset", "boxes_size"))
    data = file.read_bytes()
    for offset in range(start, start + size, 5):
        damaged = bytearray(data)
        damaged[offset] ^= 1
        file.write_bytes(damaged)
        assert any(f"sample {place}" in problem for problem in verify(file)), offset


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0, 51, 10, 0, 0], "a box of sample"),
        ([0, 0, 10, 41, 0, 0], "a box of sample"),
        ([9, 0, 9, 10, 0, 0], "a box of sample"),
        ([float("nan"), 0, 9, 10, 0, 0], "a box of sample"),
        ([0, 0, 9, 10, 3, 0], "a box of sample"),
        ([0, 0, 9, 10, 0.5, 0], "a box of sample"),
        ([0, 0, 9, 10, 0, 2], "a box of sample"),
    ],
)
def test_wrong_boxes_of_a_faulty_writer_are_refused(
    values: list[float], message: str, tmp_path: Path
):
    file = tmp_path / "a.beton"
    write(file)
    beton = open_beton(file)
    place = number_of(beton).index(2)  # 50 x 40 pixels
    start = int(beton.rows[place]["boxes_offset"])
    data = bytearray(file.read_bytes())
    data[start : start + 24] = np.array(values, "<f4").tobytes()
    file.write_bytes(data)
    reseal(file)
    with pytest.raises(UserError, match=message):
        open_beton(file).boxes(0)
    problems = verify(file)
    assert problems and all(message in problem for problem in problems), problems


@pytest.mark.parametrize("column", [24, 32])  # offset and size of the boxes in a row
@pytest.mark.parametrize("value", [0, 2**31, 2**63, 2**64 - 24])
def test_places_outside_of_the_file_are_refused(column: int, value: int, tmp_path: Path):
    file = tmp_path / "a.beton"
    write(file)
    data = bytearray(file.read_bytes())
    row = 24 + 3 * 1041 + 40 + column
    data[row : row + 8] = value.to_bytes(8, "little")
    file.write_bytes(data)
    reseal(file)
    with pytest.raises(UserError, match="boxes of sample 1 are outside"):
        open_beton(file).boxes(1)
    assert any("boxes of sample 1 are outside" in problem for problem in verify(file))


def test_splits_are_joined_with_their_boxes(tmp_path: Path):
    write(tmp_path / "a.beton", numbers=range(3))
    write(tmp_path / "b.beton", numbers=range(3, 6))
    joined = concat_splits(
        [tmp_path / "a.beton", tmp_path / "b.beton"], tmp_path / "c.beton", split="trainval"
    )
    assert verify(tmp_path / "c.beton") == [] and joined.has_boxes
    beton = open_beton(tmp_path / "c.beton")
    for place, number in enumerate(number_of(beton)):
        assert np.array_equal(beton.boxes(place), expected(number))
    plain = source_of(range(3, 6), has_boxes=False)
    write_split(plain, "train", everything(CLASSES), RAW, tmp_path / "d.beton")
    with pytest.raises(UserError, match=r"d\.beton"):
        concat_splits([tmp_path / "a.beton", tmp_path / "d.beton"], tmp_path / "e", split="train")
    with pytest.raises(UserError, match="has no boxes"):
        open_beton(tmp_path / "d.beton").boxes(0)


def test_other_tools_handle_boxes_or_refuse_them(tmp_path: Path):
    file = tmp_path / "train.beton"
    write(file)
    text = card([(file, open_beton(file).manifest)])
    assert "| boxes |" in text
    with pytest.raises(UserError, match="several labels"):
        copy_subset(file, everything(CLASSES), tmp_path / "copy.beton")
    assert open_dataset("beton", file, SplitSettings()).has_boxes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.beton", "train.beton.json"]


def test_classification_loads_the_same_file(tmp_path: Path):
    from loaders import open_loader
    from loaders.plan import LoaderPlan

    file = tmp_path / "train.beton"
    write(file, INDEXED)
    plan = LoaderPlan(file, batch_size=6, resolution=32)
    with open_loader(plan) as loader, loader.epoch(0) as epoch:
        images, labels = next(epoch)
        assert images.shape == (6, 3, 32, 32)
        assert np.array_equal(labels.numpy(), open_beton(file).labels)


def test_stored_pixels_do_not_depend_on_boxes(tmp_path: Path):
    write(tmp_path / "a.beton")
    beton = open_beton(tmp_path / "a.beton")
    place = number_of(beton).index(4)
    data = (tmp_path / "a.beton").read_bytes()
    start = int(beton.rows[place]["offset"])
    pixels = np.frombuffer(data[start : start + 64 * 64 * 3], np.uint8).reshape(64, 64, 3)
    whole = Image.open(io.BytesIO(source_of(range(6)).files.read("4.jpg")))
    assert np.abs(pixels.astype(int) - np.asarray(whole).astype(int)).max() <= 2
