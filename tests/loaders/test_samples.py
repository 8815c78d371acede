"""The samples of an epoch in every backend: each once, views, relabelling, short batches."""

import dataclasses
import json
import struct
from pathlib import Path

import pytest

from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import photo, write_beton
from writers.errors import UserError

BACKENDS = ["ffcv", "reference", "synthetic"]


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    """23 tiny images; all pixels of sample i are 10 * i, so that a batch shows what it is made
    of."""
    folder = tmp_path_factory.mktemp("gray")
    images = [photo(6, 5, seed=0) * 0 + 10 * number for number in range(23)]
    return write_beton(
        folder / "gray.beton",
        images,
        [number % 5 for number in range(23)],
        raw=[True] * 23,
        classes=["ant", "bee", "cat", "dog", "elk"],
    )


def epoch_of(plan: LoaderPlan, epoch: int = 0) -> list[tuple[list[int], list[int]]]:
    """Return the sample numbers and labels of each batch."""
    with open_loader(plan) as loader, loader.epoch(epoch) as batches:
        return [
            ((images[:, 0, 0, 0] // 10).tolist(), labels.tolist()) for images, labels in batches
        ]


def plan_of(beton: Path, **changes: object) -> LoaderPlan:
    return dataclasses.replace(LoaderPlan(beton, 4, 8), **changes)


def flat(batches: list[tuple[list[int], list[int]]], part: int) -> list[int]:
    return [value for batch in batches for value in batch[part]]


@pytest.mark.parametrize("backend", ["ffcv", "reference"])
@pytest.mark.parametrize("order", ["sequential", "random"])
def test_each_sample_exactly_once_with_its_label(beton, backend, order):
    batches = epoch_of(plan_of(beton, backend=backend, order=order), epoch=2)
    samples = flat(batches, 0)
    assert sorted(samples) == list(range(23))
    assert (samples == list(range(23))) == (order == "sequential")
    assert flat(batches, 1) == [sample % 5 for sample in samples]
    assert [len(labels) for _, labels in batches] == [4] * 5 + [3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_backends_take_the_same_labels_in_the_same_batches(beton, backend):
    plan = plan_of(
        beton, order="random", seed=5, indices=tuple(range(3, 20)), labels=(1, -1, 0, 2, 1)
    )
    expected = [labels for _, labels in epoch_of(plan, epoch=4)]
    assert [
        labels for _, labels in epoch_of(dataclasses.replace(plan, backend=backend), epoch=4)
    ] == expected


@pytest.mark.parametrize("backend", [*BACKENDS, "replay"])
@pytest.mark.parametrize(
    ("indices", "batch_size", "drop_last", "lengths"),
    [
        (None, 4, False, [4, 4, 4, 4, 4, 3]),
        (None, 4, True, [4, 4, 4, 4, 4]),
        (None, 1, False, [1] * 23),
        (None, 22, False, [22, 1]),
        ((7,), 4, False, [1]),
        ((7, 1), 4, True, [2]),  # a set smaller than a batch: one short batch, never none
        (None, 100, False, [23]),
    ],
)
def test_batches_have_the_documented_lengths(
    beton, backend, indices, batch_size, drop_last, lengths
):
    plan = plan_of(
        beton, backend=backend, indices=indices, batch_size=batch_size, drop_last=drop_last
    )
    with open_loader(plan) as loader:
        assert len(loader) == len(lengths)
        assert loader.num_samples == (len(indices) if indices else 23)
        shapes = [(images.shape, labels.shape) for images, labels in loader.epoch(0)]
    assert shapes == [((length, 3, 8, 8), (length,)) for length in lengths]


def test_a_plan_selects_and_relabels_samples(beton):
    plan = plan_of(beton, indices=(4, 22, 0, 1, 2, 3), labels=(2, -1, 0, 2, 1))
    # Sample 1 is a bee, which has no new label.
    assert epoch_of(plan) == [
        ([4, 22, 0, 2], [1, 0, 2, 0]),
        ([3], [2]),
    ]
    with open_loader(plan) as loader:
        assert loader.classes == ("cat", "elk", "ant+dog") and loader.num_samples == 5
    with open_loader(plan_of(beton)) as loader:
        assert loader.classes == ("ant", "bee", "cat", "dog", "elk")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indices": (0, 23)}, "sample 23"),
        ({"indices": (-1,)}, "sample -1"),
        ({"indices": ()}, "no sample"),
        ({"labels": (-1,) * 5}, "no sample"),
        ({"labels": (0, 1)}, "2 classes"),
        ({"labels": (0, 1, 2, -2, 3)}, "label -2"),
        ({"backend": "fcv"}, "Did you mean ffcv"),
    ],
)
def test_invalid_samples_and_labels_are_refused(beton, changes, message):
    with pytest.raises(UserError, match=message):
        open_loader(plan_of(beton, **changes))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _unfinished(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack("<Q", 0)  # FFCV's writer sets the place of the table last
    path.write_bytes(content)


def _not_a_beton(path: Path) -> None:
    path.write_bytes(b"PK\3\4" + bytes(5000))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_fields(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[24] = 4  # an array instead of the image
    path.write_bytes(content)


def _wrong_size(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[24 + 2 * 1041 + 1] += 1  # the first image's width
    path.write_bytes(content)


@pytest.mark.parametrize("backend", [*BACKENDS, "replay"])
@pytest.mark.parametrize(
    "damage",
    [_truncate, _unfinished, _not_a_beton, _empty, _other_fields, _wrong_size, Path.unlink],
)
def test_a_damaged_file_is_refused_before_ffcv_reads_it(tmp_path, backend, damage):
    path = write_beton(
        tmp_path / "bad.beton", [photo(8, 8, 0), photo(9, 8, 1)], [0, 1], raw=[True, True]
    )
    damage(path)
    with pytest.raises(UserError, match=r"bad\.beton"):
        open_loader(LoaderPlan(path, 2, 8, backend=backend))


def test_a_file_without_its_manifest_is_refused(tmp_path):
    path = write_beton(tmp_path / "bare.beton", [photo(8, 8, 0)], [0], raw=[True])
    path.with_name("bare.beton.json").unlink()
    with pytest.raises(UserError, match=r"bare\.beton"):
        open_loader(LoaderPlan(path, 2, 8))


def test_labels_beyond_the_classes_are_refused(tmp_path):
    path = write_beton(
        tmp_path / "bad.beton", [photo(8, 8, 0), photo(8, 8, 1)], [0, 1], raw=[True, True]
    )
    manifest = path.with_name("bad.beton.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"classes": ["only"]}))
    with pytest.raises(UserError, match=r"bad\.beton"):
        open_loader(LoaderPlan(path, 2, 8))


def test_a_plan_of_another_resize_version_is_refused(tmp_path):
    plan = LoaderPlan(tmp_path / "t.beton", 4, 8)
    assert dataclasses.replace(plan, resize_version=plan.resize_version) == plan
    with pytest.raises(UserError, match="resize_version is 1; this version of the loader computes"):
        dataclasses.replace(plan, resize_version=1)
