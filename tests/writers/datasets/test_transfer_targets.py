"""The twelve transfer datasets in their official layouts, compared with torchvision's classes."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as theirs

from tests.helpers import SHARED_DATA
from tests.helpers import official_layouts as layouts
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.check import accepted_differences
from writers.dataset import SplitSettings, open_dataset, spec_of
from writers.errors import UserError
from writers.source import Source
from writers.subset.spec import everything

SHARED = SHARED_DATA / "caltech101.tar"
TWELVE = [
    "aircraft",
    "birdsnap",
    "caltech101",
    "caltech256",
    "cars",
    "cifar10",
    "cifar100",
    "dtd",
    "flowers",
    "food",
    "pets",
    "sun397",
]


def pixels(data: bytes) -> bytes:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes()


def ours(source: Source, *splits: str) -> Counter:
    """Count pixels and label of each image; the order differs from torchvision's."""
    return Counter(
        (pixels(source.read(example)), example.label)
        for split in splits
        for example in source.splits[split]
    )


def torchvisions(*parts) -> Counter:
    """Count pixels and label of each image of torchvision's datasets, as `ours` does."""
    return Counter(
        (np.asarray(image.convert("RGB")).tobytes(), int(label))
        for part in parts
        for image, label in part
    )


def open_(name: str, root: Path, **settings) -> Source:
    return open_dataset(name, root, SplitSettings(val=0.2, **settings))


@pytest.mark.parametrize("wrapped", [False, True], ids=["as unpacked", "in a folder"])
@pytest.mark.parametrize(
    ("name", "make", "train", "test"),
    [
        (
            "aircraft",
            layouts.aircraft,
            lambda r: [theirs.FGVCAircraft(r, "trainval")],
            lambda r: [theirs.FGVCAircraft(r, "test")],
        ),
        (
            "food",
            layouts.food,
            lambda r: [theirs.Food101(r, "train")],
            lambda r: [theirs.Food101(r, "test")],
        ),
    ],
)
def test_readers_agree_with_torchvision(tmp_path, name, make, train, test, wrapped):
    make(tmp_path / "sub" if wrapped else tmp_path)
    source = open_(name, tmp_path)
    root = tmp_path / "sub" if wrapped else tmp_path
    assert ours(source, "train", "val") == torchvisions(*train(root))
    assert ours(source, "test") == torchvisions(*test(root))
    assert source.splits["val"]
    assert not {e.name for e in source.splits["val"]} & {e.name for e in source.splits["train"]}


def test_dtd_equals_torchvision(tmp_path):
    layouts.dtd(tmp_path / "dtd")  # torchvision nests dtd/dtd
    source = open_("dtd", tmp_path)
    assert ours(source, "train", "val") == torchvisions(
        theirs.DTD(tmp_path, "train", 1), theirs.DTD(tmp_path, "val", 1)
    )
    assert ours(source, "test") == torchvisions(theirs.DTD(tmp_path, "test", 1))
    assert source.classes == ["banded", "dotted", "zigzagged"]


def test_flowers_equals_torchvision(tmp_path, monkeypatch):
    layouts.flowers(tmp_path / "flowers-102")
    monkeypatch.setattr(theirs.Flowers102, "_check_integrity", lambda self: True)
    source = open_("flowers", tmp_path)
    official = [theirs.Flowers102(tmp_path, split) for split in ("train", "val")]
    assert ours(source, "train", "val") == torchvisions(*official)
    assert ours(source, "test") == torchvisions(theirs.Flowers102(tmp_path, "test"))


def test_pets_equals_torchvision(tmp_path):
    layouts.pets(tmp_path / "oxford-iiit-pet")
    source = open_("pets", tmp_path)
    assert ours(source, "train", "val") == torchvisions(theirs.OxfordIIITPet(tmp_path, "trainval"))
    assert ours(source, "test") == torchvisions(theirs.OxfordIIITPet(tmp_path, "test"))
    assert source.classes == ["Abyssinian", "american_bulldog", "Bengal"]


def test_cars_equals_torchvision(tmp_path):
    layouts.cars(tmp_path / "stanford_cars")
    source = open_("cars", tmp_path)
    assert ours(source, "train", "val") == torchvisions(theirs.StanfordCars(tmp_path, "train"))
    assert ours(source, "test") == torchvisions(theirs.StanfordCars(tmp_path, "test"))


@pytest.mark.parametrize("fine", [False, True])
def test_cifar_equals_torchvision_unpacked_and_packed(tmp_path, monkeypatch, fine):
    name, kind = ("cifar100", theirs.CIFAR100) if fine else ("cifar10", theirs.CIFAR10)
    layouts.cifar(tmp_path, fine)
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    source = open_(name, tmp_path)
    assert ours(source, "train", "val") == torchvisions(kind(tmp_path, train=True))
    assert ours(source, "test") == torchvisions(kind(tmp_path, train=False))
    packed = tmp_path / "packed"
    packed.mkdir()
    folder = next(path for path in tmp_path.iterdir() if path.name.startswith("cifar-"))
    archive = packed / ("cifar-100-python.tar.gz" if fine else "cifar-10-python.tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    assert open_(name, packed).splits == source.splits
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(UserError, match="not a complete archive"):
        open_(name, packed)


def test_cifar_pickles_may_only_name_arrays(tmp_path):
    layouts.cifar(tmp_path, fine=False)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match=r"os\.system"):
        open_("cifar10", tmp_path)


def test_sun397_reads_the_first_partition(tmp_path):
    """Compare images and labels only, because torchvision has no partitions."""
    layouts.sun397(tmp_path)
    source = open_("sun397", tmp_path)
    assert source.classes == ["abbey", "apartment_building/outdoor", "zoo"]
    assert ours(source, "train", "val", "test") == torchvisions(theirs.SUN397(tmp_path))
    trained = {example.key for split in ("train", "val") for example in source.splits[split]}
    assert trained == {
        f"{name}/sun_{name[2]}{number}.jpg"
        for name in ("a/abbey", "a/apartment_building/outdoor", "z/zoo")
        for number in range(3)
    }
    # PNG and GIF named .jpg.
    write_split(source, "test", everything(source.classes), Encoding(), tmp_path / "t.beton")
    assert open_beton(tmp_path / "t.beton").manifest.num_samples == 9


def test_the_two_unreadable_images_of_sun397_are_skipped(tmp_path):
    layouts.sun397(tmp_path)
    name = "sun_aophkoiosslinihb"
    image = tmp_path / "SUN397" / "z" / "zoo" / "sun_z0.jpg"
    image.rename(image.with_name(f"{name}.jpg"))
    lists = tmp_path / "Partitions" / "Training_01.txt"
    lists.write_text(lists.read_text().replace("sun_z0", name))
    source = open_("sun397", tmp_path)
    assert list(source.damaged) == [f"z/zoo/{name}.jpg"]
    split = next(
        split for split in ("train", "val") if any(name in e.key for e in source.splits[split])
    )
    image.with_name(f"{name}.jpg").write_bytes(b"no image")
    manifest = write_split(
        source, split, everything(source.classes), Encoding(), tmp_path / "t.beton"
    )
    assert [entry["name"] for entry in manifest.skipped] == [f"zoo/{name}"]
    assert manifest.num_samples == sum(manifest.class_counts) == len(source.splits[split]) - 1


def test_caltech101_has_the_protocols_salman_and_kornblith(tmp_path):
    layouts.caltech101(tmp_path / "caltech101")
    source = open_("caltech101", tmp_path / "caltech101")
    assert source.classes == ["accordion", "yin_yang"]
    assert sorted(e.key for split in ("train", "val") for e in source.splits[split]) == [
        f"{name}/image_{number:04}.jpg" for name in source.classes for number in range(1, 31)
    ]
    everything_there = ours(source, "train", "val", "test")
    torchvisions_own = theirs.Caltech101(tmp_path)  # excludes the background
    assert everything_there == torchvisions(torchvisions_own)
    other = open_("caltech101", tmp_path / "caltech101", protocol="kornblith")
    assert other.classes[0] == "BACKGROUND_Google" and len(other.classes) == 3
    for seed in (0, 1):  # the test split does not depend on val's seed
        again = open_("caltech101", tmp_path / "caltech101", protocol="kornblith", seed=seed)
        assert again.splits["test"] == other.splits["test"]
    drawn = {e.key for split in ("train", "val") for e in other.splits[split]}
    assert Counter(key.split("/")[0] for key in drawn) == dict.fromkeys(other.classes, 30)
    assert drawn != {
        f"{name}/image_{number:04}.jpg" for name in other.classes for number in range(1, 31)
    }


def test_caltech256_equals_torchvision(tmp_path):
    layouts.caltech256(tmp_path / "caltech256")
    source = open_("caltech256", tmp_path / "caltech256")
    assert source.classes == ["001.ak47", "002.dog"] and len(source.splits["test"]) == 6
    (tmp_path / "caltech256" / "256_ObjectCategories" / "002.dog" / "greg").rmdir()
    (tmp_path / "caltech256" / "256_ObjectCategories" / "002.dog" / "RENAME2").unlink()
    assert ours(source, "train", "val", "test") == torchvisions(theirs.Caltech256(tmp_path))


def test_birdsnap_keeps_labels_of_missing_images(tmp_path):
    layouts.birdsnap(tmp_path)
    source = open_("birdsnap", tmp_path, protocol="kornblith")
    assert source.classes == ["Acadian_Flycatcher", "Acorn_Woodpecker", "Zone-tailed_Hawk"]
    assert {e.key for e in source.splits["test"]} == {
        "images/Acadian_Flycatcher/3.jpg",
        "images/Acorn_Woodpecker/3.jpg",
    }
    assert len(source.splits["train"]) + len(source.splits["val"]) == 6
    with pytest.raises(
        UserError, match="train has 6 images; 47,386 were published; test has 2 images"
    ):
        accepted_differences(source, spec_of("birdsnap"), accept=False)
    assert len(accepted_differences(source, spec_of("birdsnap"), accept=True)) == 4


@pytest.mark.skipif(not SHARED.exists(), reason="the real Caltech-101 is not here")
@pytest.mark.parametrize(
    ("protocol", "classes", "train", "test"),
    [(None, 101, 3030, 5647), ("salman", 101, 3030, 5647), ("kornblith", 102, 3060, 6084)],
)
def test_the_real_caltech101_has_the_published_counts(protocol, classes, train, test):
    source = open_dataset("caltech101", SHARED, SplitSettings(protocol=protocol))
    assert len(source.classes) == classes == max(e.label for e in source.splits["test"]) + 1
    assert len(source.splits["train"]) + len(source.splits["val"]) == train
    assert len(source.splits["test"]) == test
    assert accepted_differences(source, spec_of("caltech101"), accept=False) == []


@pytest.mark.parametrize("name", TWELVE)
def test_every_dataset_reads_class_folders_and_documents_counts(tmp_path, name):
    spec = spec_of(name)
    assert spec.num_classes
    assert spec.split_sizes.keys() == {"train", "test"}
    assert spec.license
    assert spec.citation
    assert spec.where
    for split in ("train", "test"):
        for folder in ("anchor", "ant", "barrel"):  # Caltech-101 has known classes
            layouts.image(tmp_path / split / folder / "1.jpg")
            layouts.image(tmp_path / split / folder / "2.jpg")
    source = open_(name, tmp_path)
    assert {split: len(examples) for split, examples in source.splits.items()} == {
        "train": 6,
        "val": 0,
        "test": 6,
    }
    assert max(e.label for e in source.splits["test"]) + 1 == len(source.classes) == 3
    with pytest.raises(UserError, match=f"it has 3 classes; {spec.num_classes} were published"):
        accepted_differences(source, spec, accept=False)


@pytest.mark.parametrize(
    ("name", "make", "file", "content", "message"),
    [
        (
            "aircraft",
            layouts.aircraft,
            "fgvc-aircraft-2013b/data/images/0001003.jpg",
            None,
            "1 of the 12 images",
        ),
        (
            "aircraft",
            layouts.aircraft,
            "fgvc-aircraft-2013b/data/images_variant_test.txt",
            None,
            "no .*images_variant_test.txt",
        ),
        (
            "aircraft",
            layouts.aircraft,
            "fgvc-aircraft-2013b/data/variants.txt",
            "707-320\n",
            "of the 1 class",
        ),
        (
            "dtd",
            layouts.dtd,
            "dtd/labels/test1.txt",
            "banded/banded_train0.jpg\n",
            "is in two lists",
        ),
        ("flowers", layouts.flowers, "setid.mat", "words", "not a complete MATLAB file"),
        ("flowers", layouts.flowers, "imagelabels.mat", None, "no imagelabels.mat"),
        (
            "cars",
            layouts.cars,
            "devkit/cars_train_annos.mat",
            None,
            "no devkit/cars_train_annos.mat",
        ),
        (
            "pets",
            layouts.pets,
            "annotations/test.txt",
            "Abyssinian_100 x\n",
            "is not an image and its class",
        ),
        (
            "pets",
            layouts.pets,
            "annotations/test.txt",
            "Bengal_100 1 1 1\n",
            "is called Bengal and Abyssinian",
        ),
        ("food", layouts.food, "food-101/meta/test.txt", None, "no .*meta/test.txt"),
        ("birdsnap", layouts.birdsnap, "species.txt", "id\tcommon\n", "do not match"),
        ("sun397", layouts.sun397, "SUN397/ClassName.txt", "/a/abbey\n", "of the 1 class"),
    ],
)
def test_an_error_names_the_missing_or_damaged_file(tmp_path, name, make, file, content, message):
    make(tmp_path)
    assert (tmp_path / file).exists()
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=message):
        open_(name, tmp_path)


def test_val_and_test_never_overlap(tmp_path):
    for make, name in ((layouts.dtd, "dtd"), (layouts.pets, "pets"), (layouts.food, "food")):
        make(tmp_path / name)
        source = open_(name, tmp_path / name)
        names = [{e.key for e in source.splits[split]} for split in ("train", "val", "test")]
        assert not names[0] & names[2] and not names[1] & names[2]
