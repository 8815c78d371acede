"""Batches do not depend on threads, ranks, a resume, or the file that holds the samples."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import open_loader
from loaders import order as orders
from loaders.order import BLOCK_BYTES, WINDOW_BLOCKS, quasi_random_order, random_order
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import jpeg, photo, write_beton
from writers.beton.copy import copy_subset
from writers.beton.encoding import Encoding
from writers.beton.write import write_split
from writers.errors import UserError
from writers.source import Example, Source
from writers.subset.spec import SubsetSpec, everything, resolve

BACKENDS = ["ffcv", "reference", "resident"]


def plan_of(beton: Path, **changes: object) -> LoaderPlan:
    plan = LoaderPlan(
        beton, 8, 16, augment="random_resized_crop", horizontal_flip=True, order="random", seed=3
    )
    return dataclasses.replace(plan, **changes)


def batches_of(
    plan: LoaderPlan, epoch: int = 1, start_batch: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with open_loader(plan) as loader, loader.epoch(epoch, start_batch=start_batch) as batches:
        return [(images.clone(), labels.clone()) for images, labels in batches]


def equal(one, other) -> bool:
    """Return True if images and labels of all batches are equal."""
    return len(one) == len(other) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("num_threads", [2, 4])
def test_any_number_of_threads_gives_the_same_batches(betons, num_threads):
    plan = plan_of(betons["mixed"])
    assert equal(batches_of(plan), batches_of(dataclasses.replace(plan, num_threads=num_threads)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["random", "quasi_random", "sequential"])
def test_an_epoch_resumed_in_the_middle_has_the_remaining_batches(betons, backend, order):
    plan = plan_of(betons["mixed"], backend=backend, order=order)
    whole = batches_of(plan)
    assert len(whole) == 5
    for start in (0, 1, 3, 4):
        assert equal(batches_of(plan, start_batch=start), whole[start:])
    assert batches_of(plan, start_batch=5) == []


@given(
    num_samples=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 5),
    drop_last=st.booleans(),
    start=st.integers(0, 3),
    order=st.sampled_from(["random", "sequential", "quasi_random"]),
)
@settings(max_examples=150, deadline=None)
def test_ranks_share_each_batch_and_miss_nothing(
    num_samples, batch_size, world_size, drop_last, start, order
):
    from loaders.reader import Samples

    columns = np.arange(num_samples)
    samples = Samples(
        Path("x"),
        ("a",),
        columns,
        columns.astype(np.uint64) + 7,
        columns * 0,
        columns.astype(np.uint8),
        columns,
        columns,
        columns * 2**20,
        columns,
    )
    batch_size = max(batch_size, world_size)
    alone = LoaderPlan(Path("x"), batch_size, 8, order=order, drop_last=drop_last, seed=1)
    ranks = [
        dataclasses.replace(alone, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    whole = list(samples.batches(alone, 2))
    shares = [list(samples.batches(plan, 2)) for plan in ranks]
    for plan, share in zip(ranks, shares, strict=True):
        assert len(share) == samples.num_batches(plan)
        start = min(start, len(share))
        assert [batch.tolist() for batch in samples.batches(plan, 2, start)] == [
            batch.tolist() for batch in share[start:]
        ]
    for number, batch in enumerate(whole):
        together = [share[number] for share in shares if number < len(share)]
        assert sorted(np.concatenate(together).tolist()) == sorted(batch.tolist())
        assert max(map(len, together)) - min(map(len, together)) <= 1
    every = np.concatenate(whole)
    assert len(np.unique(every)) == len(every)
    if not drop_last:
        assert len(every) == num_samples
    elif num_samples >= batch_size:
        # No rank waits for another.
        assert {len(share) for share in shares} == {num_samples // batch_size}


def test_two_ranks_see_what_one_process_sees(betons):
    plan = plan_of(betons["mixed"])
    halves = [batches_of(dataclasses.replace(plan, rank=rank, world_size=2)) for rank in (0, 1)]
    for (images, labels), *parts in zip(batches_of(plan), *halves, strict=True):
        for rank, (part_images, part_labels) in enumerate(parts):
            assert torch.equal(part_images, images[rank::2])
            assert torch.equal(part_labels, labels[rank::2])


def test_quasi_random_order_reads_a_window_at_a_time():
    """The order reads three windows in turn. A window has WINDOW_BLOCKS blocks of 10 images each.

    The images of a block occur only within its window, and each window is well mixed.
    """
    num_blocks = 3 * WINDOW_BLOCKS
    offsets = np.arange(10 * num_blocks) * (BLOCK_BYTES // 10) + 4096
    ids = np.random.default_rng(0).integers(0, 2**63, len(offsets), dtype=np.uint64)
    order = quasi_random_order(1, 2, ids, offsets)
    assert sorted(order.tolist()) == list(range(len(offsets)))
    windows = (offsets[order] // BLOCK_BYTES).reshape(3, -1)
    seen = [set(window.tolist()) for window in windows]
    assert not seen[0] & seen[1] and not seen[1] & seen[2] and not seen[0] & seen[2]
    for window in windows:
        assert len(set(window[:64].tolist())) > 30, (
            "the first images of a window come from many of its blocks"
        )
    assert (order == quasi_random_order(1, 2, ids, offsets)).all()
    assert (order != quasi_random_order(1, 3, ids, offsets)).mean() > 0.9


class Photos:
    """48 generated photographs in 4 classes."""

    def __init__(self) -> None:
        self.files = {
            f"train/{'abcd'[n % 4]}/{n}.jpg": jpeg(photo(120 + n, 100 + n % 7, seed=n))
            for n in range(48)
        }

    def names(self) -> list[str]:
        return list(self.files)

    def read(self, name: str) -> bytes:
        return self.files[name]

    def where(self, name: str) -> str:
        return name


@pytest.mark.parametrize("backend", ["ffcv", "reference"])
@pytest.mark.parametrize(
    "steps",
    [
        [{"classes": ["a", "c", "d"]}],
        [{"classes": ["b", "d"]}, {"per_class": {"images": 5}}],
        [{"fraction": {"of": 0.5}}],
    ],
)
def test_own_file_copied_file_and_view_give_the_same_batches(tmp_path, backend, steps):
    photos = Photos()
    examples = [
        Example(name, "abcd".index(name.split("/")[1]), name[6:-4]) for name in photos.files
    ]
    source = Source("photos", "photos", list("abcd"), {"train": examples}, photos)
    encoding = Encoding(format="passthrough")
    write_split(source, "train", everything(source.classes), encoding, tmp_path / "all.beton")
    subset = resolve(SubsetSpec.model_validate({"name": "part", "steps": steps}), source.classes)
    write_split(source, "train", subset, encoding, tmp_path / "own.beton")
    copy_subset(tmp_path / "all.beton", subset, tmp_path / "copied.beton")
    own = batches_of(plan_of(tmp_path / "own.beton", backend=backend))
    assert equal(batches_of(plan_of(tmp_path / "copied.beton", backend=backend)), own)
    view = plan_of(tmp_path / "all.beton", backend=backend, subset=subset)
    assert equal(batches_of(view), own)
    with open_loader(view) as loader:
        assert loader.classes == subset.classes
    assert equal(
        batches_of(dataclasses.replace(view, order="sequential")),
        batches_of(plan_of(tmp_path / "own.beton", backend=backend, order="sequential")),
    )


@pytest.mark.parametrize("backend", [*BACKENDS, "synthetic"])
def test_an_epoch_cannot_begin_beyond_its_end(betons, backend):
    with (
        open_loader(plan_of(betons["mixed"], backend=backend)) as loader,
        loader.epoch(0) as running,
    ):
        for start_batch in (-1, 6):
            with pytest.raises(UserError, match="5 batches"):
                loader.epoch(0, start_batch=start_batch)
        assert len(list(running)) == 5  # the refused one has not ended it


def test_equivalent_plans_are_equal(betons):
    plan = plan_of(betons["raw"], indices=[3, 5], labels=[0, 1, 2, 3])
    same = plan_of(betons["raw"], indices=np.array([3, 5], np.int32), labels=(0, 1, 2, 3))
    assert plan == same and hash(plan) == hash(same) and plan == dataclasses.replace(plan)
    subset = resolve(SubsetSpec(name="s", classes=("class0", "class1")), ["class0", "class1"])
    others = [
        dataclasses.replace(plan, indices=[5, 3]),
        dataclasses.replace(plan, seed=4),
        plan_of(betons["raw"]),
        plan_of(betons["raw"], subset=subset),
        plan_of(betons["raw"], subset=dataclasses.replace(subset, name="t")),
    ]
    assert len({plan, same, *others}) == 6 and plan != "a plan"


def test_a_frozen_plan_keeps_its_indices(betons):
    indices = np.array([1, 2, 3])
    plan = plan_of(betons["raw"], indices=indices)
    indices[0] = 30
    assert plan.indices.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        plan.indices[0] = 30


def test_contradicting_plans_are_refused(betons):
    subset = resolve(SubsetSpec(name="s", classes=("class0", "zebra")), ["class0", "zebra"])
    for changes, message in (
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"batch_size": 2, "world_size": 3}, "3 ranks"),
        ({"indices": (4, 7), "world_size": 3}, "2 samples for 3 ranks"),
        ({"indices": [0.5]}, "array of integers"),
        ({"indices": [[1, 2]]}, "one-dimensional array of integers"),
        ({"subset": subset, "indices": (1,)}, "cannot be combined with"),
        ({"subset": subset}, "lacks 1"),
    ):
        with pytest.raises(UserError, match=message):
            open_loader(plan_of(betons["raw"], **changes))


@pytest.mark.parametrize("backend", BACKENDS)
def test_poison_overwrites_a_batch_that_is_held_too_long(betons, backend):
    # A slot for each of the 5 batches.
    plan = plan_of(betons["raw"], poison=True, batches_ahead=4, backend=backend)
    with open_loader(plan) as loader:
        epoch = loader.epoch(0)
        held, labels = next(epoch)
        kept = held.clone()
        next(epoch)
        assert (held == 77).all() and (labels == 77).all() and not (kept == 77).all()


@pytest.mark.parametrize("backend", ["ffcv", "reference"])
def test_damaged_images_are_skipped_and_counted_if_the_plan_allows_it(tmp_path, backend):
    images = [photo(40, 40, seed=number) for number in range(20)]
    blobs = [jpeg(image) for image in images]
    for number in (3, 4, 17):
        blobs[number] = blobs[number][: len(blobs[number]) // 2]
    wrong_size = jpeg(photo(30, 50, seed=9))  # a JPEG of another size than in the table
    blobs[11] = wrong_size
    beton = write_beton(
        tmp_path / "t.beton", images, [n % 2 for n in range(20)], raw=[False] * 20, blobs=blobs
    )
    whole = write_beton(tmp_path / "w.beton", images, [n % 2 for n in range(20)], raw=[False] * 20)
    plan = plan_of(beton, backend=backend, order="sequential", batch_size=5)
    with pytest.raises(UserError, match="Sample 3 of"):
        batches_of(plan)
    with (
        open_loader(dataclasses.replace(plan, on_corrupt="skip")) as loader,
        loader.epoch(1) as epoch,
    ):
        found = [(images.clone(), labels.clone()) for images, labels in epoch]
        assert sorted(loader.skipped) == [3, 4, 11, 17]
        assert "does not decode" in loader.skipped[3].message
    expected = batches_of(dataclasses.replace(plan, beton=whole))
    kept = [[0, 1, 2], [0, 1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4]]
    assert equal(
        found,
        [
            (images[rows], labels[rows])
            for (images, labels), rows in zip(expected, kept, strict=True)
        ],
    )
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in found)
    one_by_one = dataclasses.replace(plan, on_corrupt="skip", batch_size=1)
    with pytest.raises(
        UserError, match=r"Every image of a batch is damaged \(1 image\)\. Sample 3 of"
    ):
        batches_of(one_by_one)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_cut_of_an_epoch_has_the_batches_of_the_whole(betons, backend):
    """At once: several threads, two ranks, batches read ahead, and a resume at a random step."""
    draw = np.random.default_rng(12)
    for number in range(8):
        order = ["random", "quasi_random", "sequential"][number % 3]
        plan = plan_of(betons["mixed"], backend=backend, seed=number, order=order)
        whole = batches_of(plan, epoch=number)
        rank, start = int(draw.integers(2)), int(draw.integers(6))
        cut = dataclasses.replace(
            plan,
            num_threads=(1, 2, 4)[number % 3],
            batches_ahead=int(draw.integers(1, 4)),
            rank=rank,
            world_size=2,
        )
        assert equal(
            batches_of(cut, number, start),
            [(images[rank::2], labels[rank::2]) for images, labels in whole[start:]],
        )


def test_quasi_random_order_does_not_clump_classes(tmp_path, monkeypatch):
    """The source is in class order, the file has many blocks, and windows are small.

    Runs of a class must still be as short as in a random order.
    """
    monkeypatch.setattr(orders, "BLOCK_BYTES", 2**13)
    monkeypatch.setattr(orders, "WINDOW_BLOCKS", 4)
    photos = Photos()
    examples = [
        Example(name, label, f"{label}_{copy}_{name[6:-4]}")
        for label in range(4)
        for copy in range(10)
        for name in photos.files
        if "abcd".index(name.split("/")[1]) == label
    ]
    source = Source("photos", "photos", list("abcd"), {"train": examples}, photos)
    write_split(
        source,
        "train",
        everything(source.classes),
        Encoding(format="passthrough"),
        tmp_path / "t.beton",
    )
    with open_loader(plan_of(tmp_path / "t.beton", order="quasi_random")) as loader:
        samples = loader.samples
        assert len(np.unique(samples.offsets // orders.BLOCK_BYTES)) > 8 * orders.WINDOW_BLOCKS
        for epoch in range(3):
            labels = samples.labels[samples.order(loader.plan, epoch)]
            # The limit is four standard errors, of 2 % each over 480 pairs.
            assert (labels[1:] == labels[:-1]).mean() == pytest.approx(1 / 4, abs=0.08)
            # Class counts in 12 parts of 40 images.
            counts = np.stack(
                [np.bincount(part, minlength=4) for part in np.array_split(labels, 12)]
            )
            assert counts.min() >= 2 and counts.max() <= 20  # in class order: 0 and 40


def test_order_is_a_permutation_that_seed_and_epoch_decide():
    ids = np.arange(1000)
    order = random_order(3, 5, ids)
    assert (np.sort(order) == ids).all()
    assert (order == random_order(3, 5, ids)).all()
    kept = np.flatnonzero(ids % 3 == 0)  # samples of a subset keep the order of the whole
    assert (kept[random_order(3, 5, ids[kept])] == order[np.isin(order, kept)]).all()
    for other in (random_order(3, 6, ids), random_order(4, 5, ids)):
        # On average, one of 1000 keeps its place; a correlation has a standard error of 0.03.
        assert (order == other).mean() < 0.01
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.15
