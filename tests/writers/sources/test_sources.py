"""All kinds of sources give equal `.beton` files, and manifests that differ only in their source."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, ImageFolder

from tests.helpers import packed
from tests.helpers.packed import (
    official_of,
    parquet_of,
    split_folders,
    tar_of,
    webdataset_of,
    zip_of,
)
from tests.helpers.pictures import picture
from writers.beton.encoding import Encoding
from writers.beton.store import manifest_path
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.formats.imagenet_val import image_name, shipped
from writers.source import Source
from writers.sources.torchvision_dataset import from_torchvision
from writers.subset.lists import imagenet_classes
from writers.subset.spec import everything

pytest.importorskip("pyarrow", reason="Parquet shards need pyarrow, an extra")

ENCODINGS = [
    Encoding(format="passthrough"),
    Encoding(),
    Encoding(format="mixed", compress_probability=0.5, max_resolution=110),
]
SPLITS = SplitSettings(val=0.3, test=0.2, seed=3)


def written(
    source: Source, folder: Path, encoding: Encoding, splits=("train", "val", "test")
) -> dict[str, dict]:
    """Return the manifest of each split without its source; it has the file's sha256."""
    result = {}
    for split in splits:
        file = folder / f"{split}.beton"
        write_split(
            source, split, everything(source.classes), encoding, file, seed=5, on_error="skip"
        )
        manifest = json.loads(manifest_path(file).read_text())
        # The manifest of a file up to 64 MiB has the plain SHA-256 of the file.
        assert hashlib.sha256(file.read_bytes()).hexdigest() == manifest["sha256"]
        for origin in (
            "source",
            "name",
            "dataset",
            "digest",
            "omitted",  # the files that are not images differ
        ):  # the folder has the name of the archive
            del manifest[origin]
        result[split] = manifest
    return result


@pytest.fixture
def broken(tree: Path) -> Path:
    """A tree with an unreadable image, which the manifests must list with equal reasons."""
    (tree / "train" / "dog" / "train_2.jpg").write_bytes(b"not an image")
    return tree


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.format)
@pytest.mark.parametrize(
    "pack",
    [
        tar_of,
        zip_of,
        split_folders,
        parquet_of,
        webdataset_of,
        lambda tree, out: parquet_of(
            tree, out, folder=".", hub_path=lambda name, path: f"train/{name}/{path.name}"
        ),
        lambda tree, out: webdataset_of(tree, out, filenames=True),
        lambda tree, out: webdataset_of(tree, out, json_label=True),
        lambda tree, out: sorted((webdataset_of(tree, out)).glob("*.tar")),
        lambda tree, out: sorted(parquet_of(tree, out).glob("data/*")),
        lambda tree, out: [
            tree / "train",
            parquet_of(tree, out) / "data" / "validation-00000-of-00001.parquet",
        ],
    ],
    ids=[
        "tar",
        "zip",
        "two folders",
        "parquet",
        "webdataset",
        "parquet with paths",
        "webdataset with file names",
        "webdataset with labels in json",
        "webdataset by shard",
        "parquet by shard",
        "two kinds",
    ],
)
def test_every_kind_gives_the_same_betons_as_the_tree(
    broken: Path, tmp_path: Path, pack: Callable, encoding: Encoding
):
    expected = written(open_dataset("folder", broken, SPLITS), tmp_path / "a", encoding)
    (tmp_path / "packed").mkdir()
    got = written(
        open_dataset("folder", pack(broken, tmp_path / "packed"), SPLITS), tmp_path / "b", encoding
    )
    assert got == expected
    assert [
        entry["reason"] for entry in (expected["train"]["skipped"] + expected["test"]["skipped"])
    ] == ["it is not an image that Pillow can open"]


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Three classes of ImageNet with their true validation images."""
    of_image = shipped()
    for number, wnid in enumerate(imagenet_classes()[5:8]):
        val = [
            image_name(image)
            for image, class_of_image in enumerate(of_image, start=1)
            if class_of_image == wnid
        ][:2]
        train = [f"train/{wnid}/{wnid}_{index}.JPEG" for index in (10026, 7, 300)]
        for name in (*train, *(f"val/{wnid}/{image}" for image in val)):
            path = tmp_path / "imagenet" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number * 100 + len(name), 130, 110).save(path, "JPEG")
    return tmp_path / "imagenet"


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.format)
@pytest.mark.parametrize(
    "pack",
    [
        official_of,
        tar_of,
        lambda tree, out: [
            official_of(tree, out) / f"ILSVRC2012_img_{split}.tar" for split in ("val", "train")
        ],
        lambda tree, out: [tree / "train", official_of(tree, out) / "ILSVRC2012_img_val.tar"],
        lambda tree, out: as_on_the_hub(tree, out),
        lambda tree, out: timm_shards(tree, out),
    ],
    ids=["official", "tar", "official, one by one", "folder and tar", "parquet", "webdataset"],
)
def test_every_form_of_imagenet_gives_the_same_betons_as_the_tree(
    imagenet: Path, tmp_path: Path, pack: Callable, encoding: Encoding
):
    expected = written(
        open_dataset("imagenet", imagenet, SPLITS), tmp_path / "a", encoding, ("train", "val")
    )
    (tmp_path / "packed").mkdir()
    got = open_dataset("imagenet", pack(imagenet, tmp_path / "packed"), SPLITS)
    assert written(got, tmp_path / "b", encoding, ("train", "val")) == expected


def as_on_the_hub(tree: Path, out: Path) -> Path:
    """Write Parquet with labels of 1000 classes, words as names, and paths that end in classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hub = parquet_of(
        tree,
        out,
        hub_path=lambda wnid, path: f"{path.stem}_{wnid}{path.suffix}",
        names=[f"words {number}, and more" for number in range(1000)],
    )
    for shard in (hub / "data").iterdir():
        table = pq.read_table(shard)
        labels = pa.array([label + 5 for label in table["label"].to_pylist()])
        table = table.set_column(1, table.schema.field("label"), labels)
        pq.write_table(table, shard, row_group_size=2)
    unlabeled = pq.read_table(hub / "data" / "validation-00000-of-00001.parquet")
    unlabeled = unlabeled.set_column(
        1, unlabeled.schema.field("label"), pa.array([-1] * len(unlabeled))
    )
    pq.write_table(unlabeled, hub / "data" / "test-00000-of-00001.parquet")
    return hub


def timm_shards(tree: Path, out: Path) -> Path:
    """Use .jpg instead of .JPEG, and numbers of all 1000 classes."""
    import tarfile

    for split, called in (("train", "train"), ("val", "validation")):
        with tarfile.open(out / f"imagenet1k-{called}-00.tar", "w") as archive:
            for wnid, path in packed.images_of(tree, split):
                packed.add(archive, f"{path.stem}.jpg", path.read_bytes())
                packed.add(
                    archive, f"{path.stem}.cls", str(imagenet_classes().index(wnid)).encode()
                )
                packed.add(archive, f"{path.stem}.json", b'{"label": 0}')
    return out


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.format)
def test_a_torchvision_folder_gives_the_same_betons_as_the_tree(
    broken: Path, tmp_path: Path, encoding: Encoding
):
    expected = written(
        open_dataset("folder", broken, SplitSettings(0)), tmp_path / "a", encoding, ("train", "val")
    )
    for split in ("train", "val"):
        source = from_torchvision(ImageFolder(broken / split), split)
        assert written(source, tmp_path / "b", encoding, (split,))[split] == expected[split]


class Items:
    """A dataset without paths."""

    def __init__(self, tree: Path) -> None:
        self.classes, self.files = ["cat", "dog", "owl"], packed.images_of(tree, "train")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(self.files[index][1]), self.classes.index(self.files[index][0])


def test_items_of_a_torchvision_dataset_keep_their_pixels_and_labels(tree: Path, tmp_path: Path):
    picture(1).convert("CMYK").save(tree / "train" / "cat" / "ink.jpg")
    picture(2).quantize(16).save(tree / "train" / "cat" / "palette.png", transparency=3)
    items, raw = Items(tree), Encoding(format="raw")
    source = from_torchvision(items, "train", name="items")
    assert [example.label for example in source.splits["train"]] == [
        items[number][1] for number in range(len(items))
    ]
    assert source.splits["train"][4].name == "cat/train0000004"
    there = open_dataset("folder", tree, SplitSettings(0))
    assert blobs(source, source.splits["train"], raw) == blobs(there, there.splits["train"], raw)


def blobs(source: Source, examples, encoding: Encoding) -> list:
    from writers.beton.encode import encode

    return [encode(source.read(example), encoding) for example in examples]


def test_torchvisions_cifar_is_read_and_unsupported_datasets_are_refused(tmp_path: Path):
    import numpy as np

    dataset = CIFAR10.__new__(CIFAR10)  # without its files
    dataset.data, dataset.targets = (
        np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3),
        [3, 0],
    )
    dataset.classes, dataset.transform, dataset.target_transform = (
        ["plane", "car", "bird", "cat"],
        None,
        None,
    )
    source = from_torchvision(dataset, "test")
    assert [(example.label, example.name) for example in source.splits["test"]] == [
        (3, "cat/test0000000"),
        (0, "plane/test0000001"),
    ]
    assert [blob.data for blob in blobs(source, source.splits["test"], Encoding(format="raw"))] == [
        pixels.tobytes() for pixels in dataset.data
    ]
    dataset.transform = lambda image: np.asarray(image, np.float32) / 255
    with pytest.raises(UserError, match="without a transform"):
        source.read(source.splits["test"][0])
    dataset.targets = [[0, 1], [1, 0]]
    with pytest.raises(UserError, match="are not class numbers"):
        from_torchvision(dataset, "test")
    dataset.targets = [0, 9]
    with pytest.raises(UserError, match="10 labels and names 4"):
        from_torchvision(dataset, "test")
