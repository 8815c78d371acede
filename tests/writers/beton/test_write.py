"""Written `.beton` files: readable by FFCV, correctly labeled, and reproducible byte for byte."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import picture
from writers.beton.encode import encode
from writers.beton.encoding import Encoding
from writers.beton.store import manifest_path, open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.source import Source
from writers.subset.spec import SubsetSpec, everything, resolve

PASS = Encoding(format="passthrough")


@pytest.mark.parametrize(
    "encoding",
    [
        Encoding(),
        Encoding(format="raw"),
        PASS,
        Encoding(format="mixed", compress_probability=0.5, max_resolution=110),
    ],
)
def test_ffcv_reads_the_file_and_decodes_the_same_pixels(
    source: Source, tmp_path: Path, encoding: Encoding
):
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader

    import loaders.ffcv_parts  # noqa: F401  without it, FFCV's loaders change numba's types

    file = tmp_path / "train.beton"
    manifest = write_split(source, "train", everything(source.classes), encoding, file)
    reader = Reader(str(file))
    assert reader.num_samples == manifest.num_samples == 15
    assert list(reader.handlers) == ["image", "label"]
    assert np.bincount(reader.metadata["f1"]).tolist() == manifest.class_counts == [5, 5, 5]
    assert int((reader.metadata["f0"]["mode"] == 0).sum()) == manifest.num_jpeg

    data = file.read_bytes()
    table = {int(row["ptr"]): int(row["size"]) for row in reader.alloc_table}
    loader = Loader(
        str(file),
        batch_size=15,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        pipelines={"image": [CenterCropRGBImageDecoder((32, 32), 1.0)]},
    )
    ((images, labels),) = list(loader)
    assert labels.flatten().tolist() == reader.metadata["f1"].tolist()
    for row, image in zip(reader.metadata["f0"], images, strict=True):
        offset, size = int(row["data_ptr"]), (int(row["width"]), int(row["height"]))
        blob = data[offset : offset + table[offset]]
        expected = (
            Image.open(io.BytesIO(blob)).convert("RGB")
            if row["mode"] == 0
            else Image.frombytes("RGB", size, blob)
        )
        side, (left, top) = min(size), ((size[0] - min(size)) // 2, (size[1] - min(size)) // 2)
        expected = expected.crop((left, top, left + side, top + side)).resize(
            (32, 32), Image.Resampling.BOX
        )
        # FFCV decodes with the fast inverse DCT and resizes by OpenCV's area means.
        assert np.abs(np.asarray(expected, float) - image).mean() < 3


@pytest.mark.parametrize("encoding", [Encoding(format="raw"), PASS])
def test_every_image_keeps_its_label(source: Source, tmp_path: Path, encoding: Encoding):
    subset = resolve(SubsetSpec(name="two", classes=("owl", "cat")), source.classes)
    expected = {}
    for example in source.splits["train"]:
        blob = encode(source.read(example), encoding)
        expected[blob.data] = source.classes[example.label]
    write_split(source, "train", subset, encoding, tmp_path / "t", num_threads=3)
    rows, data = open_beton(tmp_path / "t").rows, (tmp_path / "t").read_bytes()
    class_of = {}
    for blob, name in expected.items():
        for row in rows:
            if data.startswith(blob, int(row["offset"])):
                class_of[blob] = subset.classes[row["label"]]
                assert name == class_of[blob]
    assert len(class_of) == len(rows) == 10


def test_no_image_crosses_a_page_and_ffcv_reads_them_page_by_page(tree: Path, tmp_path: Path):
    """Pages of 2 MiB with several images each; an image of 3.2 MB raises them to 4 MiB."""
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader

    import loaders.ffcv_parts  # noqa: F401  without it, FFCV's loaders change numba's types

    for index in range(12):
        picture(index, 600, 500 - index).save(tree / "train" / "cat" / f"medium_{index}.png")
    picture(99, 1200, 900).save(tree / "train" / "dog" / "large.png")
    source, file = open_dataset("folder", tree, SplitSettings()), tmp_path / "t.beton"
    manifest = write_split(
        source, "train", everything(source.classes), Encoding(format="raw"), file
    )
    assert manifest.page_size == 4 * 2**20
    table = Reader(str(file)).alloc_table
    first, last = (
        table["ptr"] // manifest.page_size,
        (table["ptr"] + table["size"] - 1) // manifest.page_size,
    )
    assert (first == last).all()
    assert len(set(first.tolist())) > 2
    assert int(np.argmax(table["size"])) > 0, "the large image comes first: the pages never grow"
    images = []
    for os_cache in (True, False):
        loader = Loader(
            str(file),
            batch_size=7,
            num_workers=1,
            order=OrderOption.SEQUENTIAL,
            os_cache=os_cache,
            drop_last=False,
            pipelines={"image": [CenterCropRGBImageDecoder((16, 16), 1.0)], "label": None},
        )
        images.append(np.concatenate([np.array(batch[0]) for batch in loader]))
    assert len(images[0]) == 28
    assert (images[0] == images[1]).all()
    assert verify(file) == []


def test_bytes_are_independent_of_the_number_of_threads(source: Source, tmp_path: Path):
    encoding = Encoding(format="mixed", compress_probability=0.5)
    files = []
    for num_threads in (1, 4):
        files.append(tmp_path / str(num_threads) / "train.beton")
        write_split(
            source,
            "train",
            everything(source.classes),
            encoding,
            files[-1],
            num_threads=num_threads,
        )
    assert files[0].read_bytes() == files[1].read_bytes()
    assert manifest_path(files[0]).read_bytes() == manifest_path(files[1]).read_bytes()


def test_the_order_in_the_file_is_a_seeded_shuffle(source: Source, tmp_path: Path):
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_split(source, "train", everything(source.classes), PASS, tmp_path / name, seed=seed)
        orders.append(open_beton(tmp_path / name).labels.tolist())
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_passthrough_keeps_the_files_own_bytes(source: Source, tree: Path, tmp_path: Path):
    write_split(source, "train", everything(source.classes), PASS, tmp_path / "t")
    data = (tmp_path / "t").read_bytes()
    jpegs = sorted(tree.glob("train/*/*.jpg"))
    assert len(jpegs) == 12
    assert all(path.read_bytes() in data for path in jpegs)


def test_a_subset_relabels_in_its_own_order(source: Source, tmp_path: Path):
    subset = resolve(SubsetSpec(name="two", classes=("owl", "cat")), source.classes)
    manifest = write_split(source, "val", subset, PASS, tmp_path / "val.beton")
    assert (manifest.classes, manifest.class_counts) == (["cat", "owl"], [2, 2])
    assert manifest.subset == {"name": "two", "num_classes": 2, "digest": subset.digest}


def test_all_unreadable_images_are_named_and_no_file_remains(tree: Path, tmp_path: Path):
    (tree / "train" / "cat" / "train_0.jpg").write_bytes(b"not an image")
    (tree / "train" / "dog" / "train_0.jpg").write_bytes(b"")
    whole = (tree / "train" / "owl" / "train_0.jpg").read_bytes()
    (tree / "train" / "owl" / "train_0.jpg").write_bytes(whole[: len(whole) // 2])
    source = open_dataset("folder", tree, SplitSettings())
    for encoding in (Encoding(), PASS):
        with pytest.raises(UserError, match="3 images cannot be read") as caught:
            write_split(
                source,
                "train",
                everything(source.classes),
                encoding,
                tmp_path / "out" / "train.beton",
            )
        for name in ("cat", "dog", "owl"):
            assert f"{name}/train_0.jpg" in str(caught.value)
        assert list((tmp_path / "out").iterdir()) == []


def test_many_unreadable_images_are_listed_in_a_file_next_to_the_beton(tree: Path, tmp_path: Path):
    for index in range(30):
        (tree / "train" / "cat" / f"broken_{index:02}.jpg").write_bytes(b"not an image")
    source, file = open_dataset("folder", tree, SplitSettings()), tmp_path / "out" / "train.beton"
    with pytest.raises(UserError, match="30 images cannot be read") as caught:
        write_split(source, "train", everything(source.classes), PASS, file)
    assert [f"broken_{index:02}.jpg" in str(caught.value) for index in range(30)] == [True] * 20 + [
        False
    ] * 10
    (listed,) = file.parent.iterdir()
    assert str(listed) in str(caught.value)
    assert [line.split(": ")[0] for line in listed.read_text().splitlines()] == [
        str(tree / "train" / "cat" / f"broken_{index:02}.jpg") for index in range(30)
    ]
    write_split(source, "train", everything(source.classes), PASS, file, on_error="skip")
    assert not listed.exists()


def test_skipped_images_are_listed_in_the_manifest(tree: Path, tmp_path: Path):
    (tree / "train" / "cat" / "train_0.jpg").write_bytes(b"not an image")
    source = open_dataset("folder", tree, SplitSettings())
    manifest = write_split(
        source, "train", everything(source.classes), PASS, tmp_path / "t", on_error="skip"
    )
    assert manifest.class_counts == [4, 5, 5]
    assert [entry["name"] for entry in manifest.skipped] == ["cat/train_0"]
    assert verify(tmp_path / "t") == []


def test_an_output_path_below_a_file_is_refused(source: Source, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_split(
            source, "val", everything(source.classes), PASS, tmp_path / "file" / "val.beton"
        )


def test_empty_training_class_and_missing_split_are_refused(source: Source, tmp_path: Path):
    with pytest.raises(UserError, match="Split test of tree has no image"):
        write_split(source, "test", everything(source.classes), PASS, tmp_path / "t")
    source.splits["train"] = [example for example in source.splits["train"] if example.label != 1]
    with pytest.raises(UserError, match="no image of 1 of its 3 classes: dog"):
        write_split(source, "train", everything(source.classes), PASS, tmp_path / "t")
