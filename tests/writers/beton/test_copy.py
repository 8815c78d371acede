"""A written subset, a copied subset and a view give equal bytes and batches.

Copies that cannot be made are refused.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.pictures import picture
from writers.beton import copy
from writers.beton.copy import copy_subset
from writers.beton.encoding import Encoding
from writers.beton.store import manifest_path, open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.jpeg import native
from writers.source import Source
from writers.subset.spec import Subset, everything

needs_c = pytest.mark.skipif(
    native.library() is None, reason="the package's C parts were not built"
)
TWO = Subset("two", ("owl", "cat"))  # a subset whose label order differs from the source's
ENCODINGS = [
    Encoding(),
    Encoding(format="raw"),
    Encoding(format="passthrough"),
    pytest.param(Encoding(format="dct"), marks=needs_c),
    Encoding(format="mixed", compress_probability=0.5, max_resolution=110),
]


def betons(
    source: Source, folder: Path, encoding: Encoding, subset: Subset = TWO, seed: int = 0
) -> tuple[Path, Path, Path]:
    """Return the whole `.beton` file, the subset written from images, and the subset copied."""
    whole, own, copied = (folder / name / "train.beton" for name in ("whole", "own", "copied"))
    write_split(source, "train", everything(source.classes), encoding, whole, seed=seed)
    write_split(source, "train", subset, encoding, own, seed=seed)
    copy_subset(whole, subset, copied)
    return whole, own, copied


def view(beton: Path, subset: Subset) -> dict[str, tuple[int, ...]]:
    """Return the LoaderPlan settings that select the subset from a beton."""
    opened = open_beton(beton)
    classes = opened.manifest.classes
    positions, labels = subset.select("train", classes, opened.labels, opened.ids)
    table = np.full(len(classes), -1)
    table[opened.labels[positions]] = labels
    return {"indices": tuple(positions.tolist()), "labels": tuple(table.tolist())}


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.format)
def test_a_copy_equals_the_file_written_from_images(
    source: Source, tmp_path: Path, encoding: Encoding
):
    whole, own, copied = betons(source, tmp_path, encoding, seed=7)
    assert own.read_bytes() == copied.read_bytes()
    manifests = [json.loads(manifest_path(file).read_text()) for file in (own, copied)]
    digests = [manifest.pop("digest") for manifest in manifests]
    assert manifests[0].pop("copied_from") is None
    assert manifests[1].pop("copied_from") == {
        "file": "train.beton",
        "sha256": open_beton(whole).manifest.sha256,
    }
    assert manifests[0] == manifests[1] and digests[0] != digests[1]
    assert verify(copied) == []


@pytest.mark.parametrize("backend", ["reference", "ffcv"])
@pytest.mark.parametrize("order", ["random", "sequential"])
def test_written_subset_copied_subset_and_view_give_equal_batches(
    source: Source, tmp_path: Path, backend: str, order: str
):
    whole, own, copied = betons(
        source, tmp_path, Encoding(format="mixed", compress_probability=0.5)
    )
    plan = LoaderPlan(
        own,
        batch_size=4,
        resolution=24,
        augment="random_resized_crop",
        order=order,
        seed=3,
        backend=backend,
    )
    epochs = []
    for changes in ({}, {"beton": copied}, {"beton": whole, **view(whole, TWO)}):
        with open_loader(replace(plan, **changes)) as loader:
            epochs.append([(images.clone(), labels.clone()) for images, labels in loader.epoch(2)])
    assert [len(epoch) for epoch in epochs] == [3, 3, 3]
    for batches in zip(*epochs, strict=True):
        for images, labels in batches[1:]:
            assert torch.equal(images, batches[0][0]) and torch.equal(labels, batches[0][1])


def test_a_copy_of_a_copy(source: Source, tmp_path: Path):
    _, _, copied = betons(source, tmp_path, Encoding(format="raw"))
    subset = Subset("one", ("owl",))
    copy_subset(copied, subset, tmp_path / "one.beton")
    write_split(source, "train", subset, Encoding(format="raw"), tmp_path / "own_one.beton")
    assert (tmp_path / "one.beton").read_bytes() == (tmp_path / "own_one.beton").read_bytes()


def test_copies_with_growing_pages_and_gaps_equal_written_betons(
    tree: Path, tmp_path: Path, monkeypatch
):
    """Cover several pages, a sample larger than a page, and adjacent and separate samples."""
    for index in range(12):
        picture(index, 600, 500 - index).save(tree / "train" / "cat" / f"medium_{index}.png")
    picture(99, 1200, 900).save(tree / "train" / "dog" / "large.png")
    monkeypatch.setattr(copy, "MAX_COPY_BYTES", 1_000_003)
    source, seen = open_dataset("folder", tree, SplitSettings()), []
    for subset in (TWO, Subset("dogs", ("dog", "cat")), everything(source.classes)):
        _, own, copied = betons(source, tmp_path / subset.name, Encoding(format="raw"), subset)
        assert own.read_bytes() == copied.read_bytes()
        seen.append(open_beton(copied).manifest.page_size)
    assert seen == [2 * 2**20, 4 * 2**20, 4 * 2**20]


def test_copy_without_copy_file_range(source: Source, tmp_path: Path, monkeypatch):
    def refuse(*arguments: int) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(copy.os, "copy_file_range", refuse)
    monkeypatch.setattr(copy, "CHUNK_BYTES", 1000)
    _, own, copied = betons(source, tmp_path, Encoding(format="raw"))
    assert own.read_bytes() == copied.read_bytes()


def test_skipped_images_are_in_the_manifest_of_a_copy_with_their_class(tree: Path, tmp_path: Path):
    for name in ("cat", "dog"):
        (tree / "train" / name / "train_0.jpg").write_bytes(b"not an image")
    source = open_dataset("folder", tree, SplitSettings())
    whole = tmp_path / "whole" / "train.beton"
    write_split(source, "train", everything(source.classes), Encoding(), whole, on_error="skip")
    manifest = copy_subset(whole, TWO, tmp_path / "copied.beton")
    assert [(entry["name"], entry["class"]) for entry in manifest.skipped] == [
        ("cat/train_0", "cat")
    ]
    assert manifest.class_counts == [5, 4]


def test_invalid_copies_are_refused(source: Source, tmp_path: Path):
    whole = tmp_path / "train.beton"
    write_split(source, "train", everything(source.classes), Encoding(), whole)
    before = whole.read_bytes()
    with pytest.raises(UserError, match="is the input file"):
        copy_subset(whole, TWO, whole)
    with pytest.raises(UserError, match="no image of 1 of its 2 classes: emu"):
        copy_subset(whole, Subset("odd", ("cat", "emu")), tmp_path / "odd.beton")
    with pytest.raises(UserError, match="There is no beton"):
        copy_subset(tmp_path / "other.beton", TWO, tmp_path / "two.beton")
    assert whole.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "train.beton",
        "train.beton.json",
        "tree",
    ]


def test_a_beton_that_shrinks_while_it_is_copied_leaves_nothing(source: Source, tmp_path: Path):
    whole = tmp_path / "whole" / "train.beton"
    write_split(source, "train", everything(source.classes), Encoding(format="raw"), whole)

    def cut(done: int, total: int) -> None:
        with whole.open("r+b") as file:
            file.truncate(2**21 + 1000)

    with pytest.raises(OSError, match="ends at byte"):
        copy_subset(whole, TWO, tmp_path / "out" / "two.beton", progress=cut)
    assert list((tmp_path / "out").iterdir()) == []
