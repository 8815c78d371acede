"""WebDataset shards: repeated keys, keys with dots, and samples without image or label."""

import tarfile
from pathlib import Path

import pytest

from tests.helpers.packed import add
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.source import Source


def shard(path: Path, *files: tuple[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            add(archive, name, data)
    return path


def opened(path: Path) -> Source:
    return open_dataset("folder", path, SplitSettings(val=0))


def content(source: Source) -> list[tuple[str, str, bytes]]:
    return [
        (example.name, source.classes[example.label], source.read(example))
        for example in source.splits["train"]
    ]


def test_keys_that_repeat_between_shards_are_different_images(tmp_path: Path):
    for number in range(2):
        shard(
            tmp_path / "w" / f"train-{number}.tar",
            ("0.jpg", b"%d" % number),
            ("0.cls", b"cat"),
            (f"x{number}.jpg", b"x"),
            (f"x{number}.cls", b"cat"),
        )
    assert content(opened(tmp_path / "w")) == [
        ("cat/train-0/0", "cat", b"0"),
        ("cat/x0", "cat", b"x"),
        ("cat/train-1/0", "cat", b"1"),
        ("cat/x1", "cat", b"x"),
    ]


def test_keys_with_dots_are_read(tmp_path: Path):
    files = [
        (f"photo.{number}.{extension}", data)
        for number, name in enumerate((b"cat", b"dog"))
        for extension, data in (("cls", name), ("jpg", b"image of " + name))
    ]
    path = shard(tmp_path / "w" / "train-0.tar", *files, ("1.jpg", b"x"), ("1.seg.png", b"y"))
    with pytest.raises(UserError, match=r"train-0\.tar:1 has no label"):
        opened(path)
    shard(path, *files, ("1.jpg", b"x"), ("1.seg.png", b"y"), ("1.cls", b"cat"))
    assert content(opened(path)) == [
        ("cat/1", "cat", b"x"),
        ("cat/photo.0", "cat", b"image of cat"),
        ("dog/photo.1", "dog", b"image of dog"),
    ]


def test_a_sample_that_repeats_in_a_shard_is_refused(tmp_path: Path):
    once = [("1.jpg", b"x"), ("1.cls", b"0")]
    with pytest.raises(UserError, match="has 1 twice"):
        opened(shard(tmp_path / "w" / "train-0.tar", *once, *once))


def test_unlabeled_samples_are_counted(tmp_path: Path):
    files = [
        file
        for number in range(4)
        for file in ((f"{number}.jpg", b"x"), (f"{number}.cls", b"-1" if number else b"3"))
    ]
    source = opened(shard(tmp_path / "w" / "train-0.tar", *files, ("9.txt", b"no image")))
    assert source.classes == ["0003"]
    assert {entry.reason: (entry.count, entry.names) for entry in source.omissions} == {
        "samples without a label (-1)": (3, ("train-0.tar:1", "train-0.tar:2", "train-0.tar:3")),
        "samples without an image": (1, ("train-0.tar:9",)),
    }
