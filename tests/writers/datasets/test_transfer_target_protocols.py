"""The twelve transfer datasets with all classes: protocols, splits, mirrors, known damage."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as oracles

from tests.helpers.transfer_target_trees import MAKERS, make_caltech101
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.dataset import PROTOCOLS, SplitSettings, open_dataset, spec_of
from writers.errors import UserError
from writers.source import Source
from writers.subset.spec import everything

SETTINGS = SplitSettings(val=0.25)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with small data sets, by name. They are made only once; tests must not change them."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def sizes(source: Source) -> dict[str, int]:
    return {split: len(examples) for split, examples in source.splits.items()}


def count_images(source: Source, *splits: str) -> Counter:
    """Return class name and pixels of each image."""
    return Counter(
        (source.classes[example.label], pixels(Image.open(io.BytesIO(source.read(example)))))
        for split in splits
        for example in source.splits[split]
    )


def truth(oracle, classes: list[str]) -> Counter:
    return Counter((classes[label], pixels(image)) for image, label in oracle)


def pixels(image: Image.Image) -> bytes:
    return np.asarray(image.convert("RGB")).tobytes()


@pytest.mark.parametrize("name", MAKERS)
def test_classes_and_splits_are_as_documented(name: str, trees: dict[str, Path]):
    spec = spec_of(name)
    assert spec.name == name
    assert spec.downloads
    assert spec.default_protocol == "salman"
    assert set(spec.protocols) <= set(PROTOCOLS)
    for protocol in (None, *(protocol for protocol in spec.protocols if protocol != "vtab")):
        source = open_dataset(
            name, trees[name], SplitSettings(val=0.25, test=0.25, protocol=protocol)
        )
        assert source.protocol == (protocol or "salman")
        labels = [example.label for examples in source.splits.values() for example in examples]
        assert len(set(source.classes)) == len(source.classes) == spec.classes(protocol)
        # The last species has no images.
        assert max(labels) + 1 == (499 if name == "birdsnap" else len(source.classes))
        assert all(source.splits.values())
        keys = [example.key for examples in source.splits.values() for example in examples]
        assert len(set(keys)) == len(keys)
    first, other, none = (
        open_dataset(name, trees[name], SplitSettings(val=val, test=0.4, seed=seed))
        for val, seed in ((0.25, 0), (0.25, 1), (0, 0))
    )
    assert first.splits["test"] == other.splits["test"] == none.splits["test"]
    assert not none.splits["val"]
    assert first.splits["val"] != other.splits["val"]
    for source in (first, other):
        assert (
            sorted(source.splits["train"] + source.splits["val"], key=lambda e: e.key)
            == none.splits["train"]
        )


@pytest.mark.parametrize(
    "folders", [("train", "valid", "test"), ("train", "test"), ("train", "valid"), ("train", "val")]
)
@pytest.mark.parametrize("name", ["birdsnap", "cars", "food", "caltech101", "cifar10"])
def test_a_mirrors_val_without_test_is_its_test_set(
    name: str, folders: tuple[str, ...], tmp_path: Path
):
    for label in ("anchor", "ant"):
        for folder in folders:
            (tmp_path / folder / label).mkdir(parents=True)
            for number in range(2):
                (tmp_path / folder / label / f"{folder}{number}.jpg").write_bytes(b"a file")
    source = open_dataset(name, tmp_path, SplitSettings(val=0.5, test=0.3))
    assert sizes(source) == (
        {"train": 4, "val": 4, "test": 4}
        if len(folders) == 3
        else {"train": 2, "val": 2, "test": 4}
    )
    assert all(folders[-1] in example.key for example in source.splits["test"])


def test_without_lists_and_splits_the_missing_file_is_named(trees: dict[str, Path], tmp_path: Path):
    (tmp_path / "dtd" / "images" / "banded").mkdir(parents=True)
    (tmp_path / "dtd" / "images" / "banded" / "banded_0001.jpg").write_bytes(b"a file")
    with pytest.raises(UserError, match=r"no labels/train1\.txt, nor train/ and test/"):
        open_dataset("dtd", tmp_path, SplitSettings(test=0.5))
    with pytest.raises(UserError, match=r"no annotations/trainval\.txt"):
        open_dataset("pets", tmp_path / "dtd" / "images" / "banded", SETTINGS)


@pytest.mark.parametrize(
    ("name", "oracle"), [("aircraft", oracles.FGVCAircraft), ("dtd", oracles.DTD)]
)
def test_official_splits_equal_torchvision(name: str, oracle: type, trees: dict[str, Path]):
    official = open_dataset(name, trees[name], SplitSettings(protocol="official"))
    for part in ("train", "val", "test"):
        theirs = oracle(str(trees[name]), part)
        assert official.classes == theirs.classes
        assert count_images(official, part) == truth(theirs, theirs.classes)


def test_cars_with_padded_names_equal_torchvision(trees: dict[str, Path]):
    source = open_dataset("cars", trees["cars"], SETTINGS)
    train = oracles.StanfordCars(str(trees["cars"]), "train")
    # torchvision keeps the padding of names.
    train._samples = [(path.replace(" ", ""), label) for path, label in train._samples]
    assert source.classes == train.classes
    assert count_images(source, "train", "val") == truth(train, train.classes)


def test_protocols_of_caltech101_have_the_documented_splits(trees: dict[str, Path], tmp_path: Path):
    source = open_dataset("caltech101", trees["caltech101"], SplitSettings(val=0))
    assert {int(e.name[-4:]) for e in source.splits["train"]} == set(range(1, 31))
    assert len(source.splits["train"]) == 3030
    vtab = open_dataset("caltech101", trees["caltech101"], SplitSettings(protocol="vtab"))
    assert sizes(vtab)["train"] == 800 and sizes(vtab)["val"] == 200 and len(vtab.classes) == 102
    carved = open_dataset(
        "caltech101", trees["caltech101"], SplitSettings(val=0.2, test=0.5, protocol="carved")
    )
    assert sum(sizes(carved).values()) == sum(sizes(source).values())
    of_256 = [
        open_dataset("caltech256", trees["caltech256"], SplitSettings(val=0, protocol=protocol))
        for protocol in ("salman", "carved")
    ]
    assert not any(
        "greg" in e.key
        for source in of_256
        for examples in source.splits.values()
        for e in examples
    )
    assert sizes(of_256[1]) == {"train": sum(sizes(of_256[0]).values()), "val": 0, "test": 0}
    root = make_caltech101(tmp_path, ["anchor", "ant", "BACKGROUND_Google", "unicorn"])
    for protocol in ("salman", "kornblith", "carved"):
        with pytest.raises(UserError, match="unicorn"):
            open_dataset("caltech101", root, SplitSettings(protocol=protocol))


def test_birdsnap_splits_equal_hand_made_ones(trees: dict[str, Path]):
    kornblith = open_dataset(
        "birdsnap", trees["birdsnap"], SplitSettings(val=0, protocol="kornblith")
    )
    assert kornblith.classes == [f"Bird_{number:03d}" for number in range(500)]
    assert sizes(kornblith) == {"train": 499 * 4, "val": 0, "test": 498}
    assert all(e.name.endswith("4") for e in kornblith.splits["test"])
    assert kornblith.splits["test"][0].label == 1
    salman = open_dataset("birdsnap", trees["birdsnap"], SplitSettings(val=0))
    assert set(Counter(e.label for e in salman.splits["test"]).values()) == {1}
    assert sizes(salman)["test"] == 499


def test_an_empty_class_keeps_its_label_if_counts_are_accepted(
    trees: dict[str, Path], tmp_path: Path
):
    source = open_dataset("birdsnap", trees["birdsnap"], SETTINGS)
    with pytest.raises(UserError, match="no image of 1 of its 500 classes: Bird_499"):
        write_split(source, "train", everything(source.classes), Encoding(), tmp_path / "t.beton")
    assert not list(tmp_path.iterdir())
    source.differences = ["train has 1,995 images; 32,677 were published"]
    manifest = write_split(
        source, "train", everything(source.classes), Encoding(), tmp_path / "t.beton"
    )
    assert manifest.class_counts[499] == 0
    assert len(manifest.classes) == 500
    assert manifest.differences == source.differences
    assert open_beton(tmp_path / "t.beton").labels.max() == 498


def test_known_damage_of_pets_is_decoded_as_by_pillow(trees: dict[str, Path], tmp_path: Path):
    """A scan ends early: libjpeg warns and continues."""
    source = open_dataset("pets", trees["pets"], SplitSettings(val=0))
    example = next(e for e in source.splits["train"] if e.name == "beagle/beagle_116")
    file = Path(source.where(example))
    whole = file.read_bytes()
    damaged = whole[: len(whole) * 3 // 4] + whole[-2:]
    file.write_bytes(damaged)
    try:
        oracle = Image.open(io.BytesIO(damaged)).convert("RGB")
        for encoding in (Encoding(format="raw"), Encoding(format="passthrough")):
            out = tmp_path / f"{encoding.format}.beton"
            manifest = write_split(source, "train", everything(source.classes), encoding, out)
            assert manifest.skipped == [] and manifest.num_samples == len(source.splits["train"])
        raw = (tmp_path / "raw.beton").read_bytes()
        assert np.asarray(oracle).tobytes() in raw
        assert damaged not in (tmp_path / "passthrough.beton").read_bytes()
        source.lenient = ()
        with pytest.raises(UserError, match="beagle_116"):
            write_split(
                source,
                "train",
                everything(source.classes),
                Encoding(format="raw"),
                tmp_path / "no.beton",
            )
    finally:
        file.write_bytes(whole)


def test_a_protocol_of_another_dataset_is_refused(trees: dict[str, Path]):
    with pytest.raises(UserError, match="salman, kornblith"):
        open_dataset("cars", trees["cars"], SplitSettings(protocol="vtab"))
    vtab = spec_of("cifar100").sizes("vtab")
    assert vtab == {"train": 800, "val": 200, "test": 10_000}
    assert spec_of("svhn").sizes("vtab")["test"] == 26_032
