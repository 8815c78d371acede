"""Trees of class folders and their tars: equal images and labels, stable splits, clear errors."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

from tests.helpers import SHARED_DATA
from tests.helpers.pictures import picture
from writers.beton.encoding import Encoding
from writers.beton.store import manifest_path
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.source import Example, carve, open_source
from writers.subset.spec import everything, named

SHARED = SHARED_DATA


def make_tree(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, 20, 20).save(root / name)
    return root


def as_tar(tree: Path, path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(tree, tree.name)
    return path


def test_torchvision_sees_the_same_images_and_labels(tree: Path):
    source = open_dataset("folder", tree, SplitSettings())
    for split in ("train", "val"):
        theirs = ImageFolder(tree / split)
        assert source.classes == theirs.classes
        assert [
            (str(tree / example.key), example.label) for example in source.splits[split]
        ] == theirs.samples


def test_folder_and_tar_give_the_same_beton_byte_for_byte(tree: Path, tmp_path: Path):
    files = []
    for path in (tree, as_tar(tree, tmp_path / "tree.tar")):
        source = open_dataset("folder", path, SplitSettings())
        files.append(tmp_path / f"{len(files)}.beton")
        write_split(source, "train", everything(source.classes), Encoding(), files[-1])
    assert files[0].read_bytes() == files[1].read_bytes()
    manifests = [json.loads(manifest_path(file).read_text()) for file in files]
    assert [manifest.pop("source") for manifest in manifests] == ["tree", "tree.tar"]
    assert manifests[0].pop("digest") != manifests[1].pop("digest")
    assert manifests[0] == manifests[1]


@pytest.mark.parametrize("wrapping", ["", "set/", "set/101_ObjectCategories/"])
def test_outer_folders_and_stray_files_are_skipped(tmp_path: Path, wrapping: str):
    root = make_tree(
        tmp_path / "root",
        [f"{wrapping}{name}" for name in ("cat/1.jpg", "cat/2.PNG", "dog/1.jpeg")],
    )
    (root / wrapping / "LICENSE").write_text("free")
    (root / wrapping / "cat" / "notes.txt").write_text("a cat")
    (root / wrapping / "cat" / ".hidden.jpg").write_text("")
    source = open_source(root, SplitSettings(val=0), name="pets")
    train = [
        Example("cat/1.jpg", 0, "cat/1"),
        Example("cat/2.PNG", 0, "cat/2"),
        Example("dog/1.jpeg", 1, "dog/1"),
    ]
    assert source.splits == {"train": train, "val": [], "test": []}
    assert (
        source.read(source.splits["train"][0]) == (root / wrapping / "cat" / "1.jpg").read_bytes()
    )


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_existing_splits_are_kept_and_missing_ones_drawn(tmp_path: Path, val: str):
    names = [f"train/{name}/{index}.png" for name in "ab" for index in range(10)]
    root = make_tree(tmp_path / "with", [*names, f"{val}/a/x.png"])
    source = open_source(root, SplitSettings(val=0.3, test=0.2), name="t")
    assert [example.key for example in source.splits["val"]] == [f"{val}/a/x.png"]
    assert Counter(example.label for example in source.splits["test"]) == {0: 2, 1: 2}
    assert len(source.splits["train"]) == 16


def test_split_folders_are_found_in_any_case(tmp_path: Path):
    root = make_tree(
        tmp_path / "set", ["Train/a/1.png", "Train/b/1.png", "VAL/a/2.png", "Test/b/3.png"]
    )
    source = open_source(root, SplitSettings(), name="t")
    assert source.classes == ["a", "b"]
    assert {
        split: [example.key for example in examples] for split, examples in source.splits.items()
    } == {
        "train": ["Train/a/1.png", "Train/b/1.png"],
        "val": ["VAL/a/2.png"],
        "test": ["Test/b/3.png"],
    }
    (root / "Train" / "ghost").mkdir()
    with pytest.raises(UserError, match="ghost has no images"):
        open_source(root, SplitSettings(), name="t")


def test_a_class_may_be_named_test(tmp_path: Path):
    root = make_tree(tmp_path / "set", ["exam/1.png", "test/1.png"])
    assert open_source(root, SplitSettings(), name="t").classes == ["exam", "test"]


EXAMPLES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=6), st.integers(0, 3), min_size=1, max_size=60
)


@settings(max_examples=60, deadline=None)
@given(
    EXAMPLES,
    st.sampled_from([0.0, 0.05, 0.2, 0.5]),
    st.sampled_from([0.0, 0.1, 0.4]),
    st.integers(0, 5),
)
def test_drawn_splits_partition_the_images_and_keep_one_per_class_in_train(labels, val, test, seed):
    examples = [Example(key, label, key) for key, label in sorted(labels.items())]
    splits = carve(list(examples), [], [], SplitSettings(val, test, seed))
    assert (
        sorted(
            (example for part in splits.values() for example in part),
            key=lambda example: example.key,
        )
        == examples
    )
    counts = Counter(labels.values())
    assert {example.label for example in splits["train"]} == set(counts)
    for label, number in counts.items():
        carved, wanted = [], []
        for split, share in (("test", test), ("val", val)):
            carved.append(sum(example.label == label for example in splits[split]))
            wanted.append(max(int(share * number + 0.5), int(share > 0 and number >= 3)))
        if sum(wanted) < number:
            assert carved == wanted
        else:
            assert sum(carved) == number - 1
        assert all(carved) or not all(wanted) or number < 3


def test_the_split_of_an_image_depends_only_on_name_and_seed():
    examples = [Example(f"{index}.jpg", 0, f"a/{index}") for index in range(100)]
    first = carve(list(examples), [], [], SplitSettings(0.2))["val"]
    assert carve(list(reversed(examples)), [], [], SplitSettings(0.2))["val"] == first
    assert carve(list(examples), [], [], SplitSettings(0.2, seed=1))["val"] != first
    # 18 of 90 images; most choices stay equal.
    fewer = carve(examples[:90], [], [], SplitSettings(0.2))["val"]
    assert len(set(fewer) & set(first)) >= 14


def test_imagenet_has_its_own_order_and_refuses_unknown_classes(tmp_path: Path):
    wnids = named("in1000").classes[:3]
    root = make_tree(
        tmp_path / "imagenet",
        [
            f"{split}/{wnid}/{split}_{index}.JPEG"
            for split in ("train", "val")
            for wnid in reversed(wnids)
            for index in range(2)
        ],
    )
    source = open_dataset("imagenet", root, SplitSettings())
    assert source.classes == list(wnids)
    assert {split: len(examples) for split, examples in source.splits.items()} == {
        "train": 6,
        "val": 6,
        "test": 0,
    }
    make_tree(root, ["train/n99999999/1.JPEG"])
    with pytest.raises(UserError, match="n99999999"):
        open_dataset("imagenet", root, SplitSettings())


def test_imagenet_without_its_val_is_refused(tmp_path: Path):
    root = make_tree(
        tmp_path / "imagenet",
        [f"train/{named('in1000').classes[0]}/{index}.JPEG" for index in range(5)],
    )
    make_tree(
        tmp_path / "flat",
        [f"{wnid}/{index}.JPEG" for wnid in named("in1000").classes[:1] for index in range(5)],
    )
    for tree in (root, tmp_path / "flat"):  # a split drawn from train is not ImageNet's val
        with pytest.raises(UserError, match="val lacks 1 of the classes"):
            open_dataset("imagenet", tree, SplitSettings())


def test_invalid_sources_are_refused(tmp_path: Path, tree: Path):
    def refused(path: Path, words: str) -> None:
        with pytest.raises(UserError, match=words):
            open_dataset("folder", path, SplitSettings())

    refused(tmp_path / "nowhere", "no folder or archive")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no images in class folders")
    flat = make_tree(tmp_path / "flat", ["1.jpg", "2.jpg"])
    with pytest.raises(UserError, match="no images in class folders") as caught:
        open_dataset("folder", flat, SplitSettings())
    assert caught.value.hint.startswith("If a table lists their classes, use --labels FILE. ")
    assert "Accepted: train/<class>/*.jpg" in caught.value.hint
    (tree / "train" / "ghost").mkdir()
    refused(tree, "ghost has no images")
    (tree / "train" / "ghost").rmdir()
    refused(
        make_tree(tmp_path / "untrained", ["val/cat/1.jpg", "test/cat/1.jpg"]),
        "test/ and val/, and no train/",
    )
    refused(make_tree(tree, ["extra/cat/1.jpg"]), "extra/ next to train/")
    refused(as_tar(tree, tmp_path / "t.tar.gz", "w:gz"), "compressed by gzip")
    (tmp_path / "words.tar").write_text("words")
    refused(tmp_path / "words.tar", "uncompressed tar")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        member = tarfile.TarInfo("../outside/cat/1.jpg")
        archive.addfile(member, io.BytesIO())
    refused(tmp_path / "evil.tar", "outside itself")


def test_a_truncated_tar_names_the_image(tree: Path, tmp_path: Path):
    path = as_tar(tree, tmp_path / "tree.tar")
    source = open_dataset("folder", path, SplitSettings())
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"tree\.tar:tree/train/.* the archive ends inside"):
        write_split(
            source, "train", everything(source.classes), Encoding(), tmp_path / "train.beton"
        )


@pytest.mark.skipif(
    not (SHARED / "caltech101.tar").exists(),
    reason="needs caltech101.tar, which is not part of this project",
)
def test_the_real_caltech101_opens_as_a_folder():
    source = open_dataset("caltech101", SHARED / "caltech101.tar", SplitSettings(val=0.2))
    assert (len(source.classes), sum(map(len, source.splits.values()))) == (101, 8677)
    assert (source.classes[0], source.classes[-1]) == ("Faces", "yin_yang")
    assert (
        sum(example.key.startswith("Faces/") for part in source.splits.values() for example in part)
        == 435
    )


@pytest.mark.skipif(
    not (SHARED / "grocery.tar").exists(),
    reason="needs grocery.tar, which is not part of this project",
)
def test_the_real_grocery_store_opens_as_a_tar():
    source = open_dataset("folder", SHARED / "grocery.tar", SplitSettings())
    assert source.name == "grocery"
    assert (
        len(source.classes),
        {split: len(examples) for split, examples in source.splits.items()},
    ) == (81, {"train": 2640, "val": 296, "test": 2485})


def test_image_names_are_independent_of_extension_and_outer_folders(tmp_path: Path):
    jpg = make_tree(tmp_path / "jpg", ["train/cat/1.JPEG", "train/cat/b/2.jpg"])
    png = make_tree(tmp_path / "png", ["set/train/cat/1.png", "set/train/cat/b/2.png"])
    for root in (jpg, png):
        train = open_source(root, SplitSettings(0), name="t").splits["train"]
        assert [example.name for example in train] == ["cat/1", "cat/b/2"]
    both = make_tree(tmp_path / "both", ["cat/1.png", "cat/1.jpg", "cat/2.jpg"])
    assert [
        example.name for example in open_source(both, SplitSettings(0), name="t").splits["train"]
    ] == ["cat/1.jpg", "cat/1.png", "cat/2"]


def test_several_paths_must_name_their_splits(tree: Path, tmp_path: Path):
    both = [tree / "val", tree / "train"]
    source = open_dataset("folder", both, SplitSettings())
    assert source.origin == "val + train"
    assert {split: len(examples) for split, examples in source.splits.items()} == {
        "train": 15,
        "val": 6,
        "test": 0,
    }
    example = source.splits["val"][0]
    assert source.read(example) == (tree / "val" / "cat" / "val_0.jpg").read_bytes()
    assert source.where(example) == str(tree / "val" / "cat" / "val_0.jpg")
    assert len(source.files.names()) == 21
    for places, words in (
        ([tree / "train", make_tree(tmp_path / "more", ["cat/9.png"])], r"more it is unclear"),
        ([tree / "train", tree / "train"], "train is given twice"),
        ([tree / "train", tmp_path / "nowhere"], "no folder or archive .*nowhere"),
    ):
        with pytest.raises(UserError, match=words):
            open_dataset("folder", places, SplitSettings())
    with pytest.raises(UserError, match="caltech101 is read from one path, not 2"):
        open_dataset("caltech101", both, SplitSettings())


def test_errors_list_the_accepted_layouts(tmp_path: Path):
    with pytest.raises(UserError) as caught:
        open_dataset("folder", tmp_path / "nowhere", SplitSettings())
    for words in (
        "train/<class>/*.jpg",
        ".zip",
        "ILSVRC2012_img_train.tar",
        "train-*.parquet",
        "WebDataset",
        "torchvision",
    ):
        assert words in str(caught.value)
