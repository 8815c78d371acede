"""Balanced and weighted orders equal a plain loop; their shares, ranks, resumption and files."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import Loader, LoaderPlan, open_loader, reader
from loaders.reader import Samples
from tests.helpers.tiny_betons import photo, write_beton
from writers.errors import UserError
from writers.random_streams import random_words, sample_ids

COUNTS = (20, 9, 3, 2)  # images per class
LABELS = [label for label, count in enumerate(COUNTS) for _ in range(count)]
N = len(LABELS)


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    images = [photo(24, 20, seed=number) for number in range(N)]
    return write_beton(
        tmp_path_factory.mktemp("uneven") / "train.beton", images, LABELS, raw=[True] * N
    )


def rows(plan: LoaderPlan, epoch: int = 0) -> np.ndarray:
    """Return the samples of an epoch in order, as positions in the file; int [N]."""
    with open_loader(plan) as loader:
        return loader.samples.indices[loader.samples.order(plan, epoch)]


def balanced(beton: Path, **changes: object) -> LoaderPlan:
    return dataclasses.replace(LoaderPlan(beton, 8, 16, order="balanced", seed=3), **changes)


def weighted(beton: Path, weights: object, **changes: object) -> LoaderPlan:
    plan = LoaderPlan(beton, 8, 16, order="weighted", weights=weights, seed=3)
    return dataclasses.replace(plan, **changes)


def slow_draws(
    weights: list[float], ids: list[int], labels: list[int], seed: int, epoch: int
) -> Counter:
    """Count the draws of each sample by systematic sampling in integers, one draw at a time."""

    def word(key: int, sample: int) -> int:
        return int(random_words(key, epoch, np.array([sample], np.uint64), 1)[0, 0])

    total, so_far, units = 0.0, 0, {}
    for sample in sorted(range(len(ids)), key=lambda place: ids[place]):
        total += weights[sample]
        units[sample] = total
    everything = total
    for sample, end in list(units.items()):
        rounded = round(end / everything * len(ids) * 2**32)
        units[sample], so_far = rounded - so_far, rounded
    layout = sorted(
        range(len(ids)), key=lambda place: (labels[place], word(seed ^ 0x6C61796F7574, ids[place]))
    )
    point, end, counts = word(seed ^ 0x6F6666736574, 0) >> 32, 0, Counter()
    for sample in layout:
        end += units[sample]
        while point < end:
            counts[sample] += 1
            point += 2**32
    return counts


WEIGHTS = np.random.default_rng(0).exponential(1.0, N) * (np.arange(N) % 5 != 0)


@pytest.mark.parametrize("epoch", range(4))
@pytest.mark.parametrize("kind", ["balanced", "weighted"])
def test_an_epoch_draws_the_samples_of_a_plain_loop(beton, kind, epoch):
    plan = balanced(beton) if kind == "balanced" else weighted(beton, WEIGHTS)
    weights = [1 / COUNTS[label] for label in LABELS] if kind == "balanced" else WEIGHTS.tolist()
    with open_loader(plan) as loader:
        ids = loader.samples.ids[:N].tolist()
        assert loader.num_samples == N == sum(len(labels) for _, labels in loader.epoch(epoch))
    assert Counter(rows(plan, epoch).tolist()) == slow_draws(weights, ids, LABELS, 3, epoch)


@pytest.mark.parametrize("epoch", range(5))
def test_each_class_has_its_share_and_each_sample_too(beton, epoch):
    drawn = rows(balanced(beton), epoch)
    per_class = np.bincount(np.array(LABELS)[drawn], minlength=4)
    assert set(per_class) <= {N // 4, N // 4 + 1}
    for label, count in enumerate(COUNTS):
        copies = [int((drawn == row).sum()) for row in range(N) if LABELS[row] == label]
        share = N / 4 / count
        assert set(copies) <= {int(share), int(share) + 1}


def test_over_many_epochs_draws_are_proportional_to_weights(beton):
    plan = weighted(beton, WEIGHTS)
    with open_loader(plan) as loader:
        order = [loader.samples.indices[loader.samples.order(plan, epoch)] for epoch in range(1500)]
    mean = np.bincount(np.concatenate(order), minlength=N) / 1500
    expected = N * WEIGHTS / WEIGHTS.sum()
    assert (mean[WEIGHTS == 0] == 0).all()
    assert np.abs(mean - expected).max() < 0.06  # 4.6 standard errors of a fair coin per epoch
    firsts = Counter(int(one[0]) for one in order)
    assert len(firsts) > 20, "the order of an epoch is random"


def test_draws_of_one_sample_differ_in_their_crops(beton):
    plan = balanced(beton, augment="random_resized_crop", batch_size=N)
    with open_loader(plan) as loader, loader.epoch(0) as batches:
        images, _ = next(batches)
        drawn = loader.samples.indices[loader.samples.order(plan, 0)]
        ids = loader.samples.ids[loader.samples.order(plan, 0)]
    assert len(set(ids.tolist())) == N
    repeated = [row for row in range(N) if (drawn == row).sum() > 1]
    assert repeated
    for row in repeated:
        assert (
            len({image.numpy().tobytes() for image in images[torch.from_numpy(drawn == row)]}) > 1
        )


@pytest.mark.parametrize("backend", ["resident", "reference"])
@pytest.mark.parametrize("kind", ["balanced", "weighted"])
def test_backends_ranks_and_a_resume_agree(beton, backend, kind):
    plan = balanced(beton) if kind == "balanced" else weighted(beton, WEIGHTS)
    plan = dataclasses.replace(plan, augment="random_resized_crop", horizontal_flip=True)

    def read(start: int = 0, **changes: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
        with open_loader(dataclasses.replace(plan, **changes)) as loader:
            return [(x.clone(), y.clone()) for x, y in loader.epoch(1, start_batch=start)]

    whole = read()
    for expected, found in zip(whole, read(backend=backend), strict=True):
        assert all(map(torch.equal, expected, found))
    for expected, found in zip(whole[2:], read(2, num_threads=2), strict=True):
        assert all(map(torch.equal, expected, found))
    for rank in range(3):
        shares = [(images[rank::3], labels[rank::3]) for images, labels in whole]
        shares = [share for share in shares if len(share[1])]  # the last batch has two images
        for expected, found in zip(shares, read(rank=rank, world_size=3), strict=True):
            assert all(map(torch.equal, expected, found))


def test_another_order_in_the_file_gives_the_same_batches(beton, tmp_path):
    """Draws depend on ids, so that all files of the same samples give the same batches."""
    mirrored = list(reversed(range(N)))
    plan = balanced(beton, batch_size=N)
    view = dataclasses.replace(plan, indices=mirrored)
    with open_loader(plan) as one, open_loader(view) as other:
        for expected, found in zip(next(one.epoch(2)), next(other.epoch(2)), strict=True):
            assert torch.equal(expected, found)


def test_a_view_is_balanced_over_its_own_classes(beton):
    few = [row for row, label in enumerate(LABELS) if label in (0, 3)]
    drawn = rows(balanced(beton, indices=few))
    assert np.bincount(np.array(LABELS)[drawn]).tolist() == [11, 0, 0, 11]
    merged = balanced(beton, labels=[0, -1, 1, 1])
    with open_loader(merged) as loader:
        counts = torch.bincount(torch.cat([labels.clone() for _, labels in loader.epoch(0)]))
    assert set(counts.tolist()) <= {12, 13}


def test_weights_come_from_files(beton, tmp_path, monkeypatch):
    by_class = tmp_path / "classes.csv"
    by_class.write_text("class,weight\nclass0,1\nclass1,0\nclass2,2.5\nclass3,4\n")
    values = np.array([1, 0, 2.5, 4])[LABELS]
    np.save(tmp_path / "weights.npy", values)
    expected = rows(weighted(beton, values))
    assert (rows(weighted(beton, by_class)) == expected).all()
    assert (rows(weighted(beton, str(tmp_path / "weights.npy"))) == expected).all()
    with Loader(beton, 8, resolution=16, order="weighted", weights=by_class, seed=3) as loader:
        assert loader.num_samples == N

    names = [f"class{label}/{number}.jpg" for number, label in enumerate(LABELS)]
    own = sample_ids(names)
    open_beton = reader.open_beton
    monkeypatch.setattr(
        reader, "open_beton", lambda path: dataclasses.replace(open_beton(path), ids=own)
    )
    by_image = tmp_path / "images.csv"
    lines = [f"{name},{value}" for name, value in zip(names, values, strict=True)]
    by_image.write_text("\n".join(["image,weight", *reversed(lines)]))
    assert (rows(weighted(beton, by_image)) == rows(weighted(beton, values))).all()
    by_image.write_text("\n".join(["image,weight", *lines[1:]]))
    with pytest.raises(UserError, match=f"no weight for 1 of the {N} images"):
        rows(weighted(beton, by_image))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,weight\nclass0,1\nclass1,1\nclass2,1\n", "no weight for 1 class, such as class3"),
        ("class,weight\nclass0,heavy\n", "not a number"),
        ("class,weight\nclass0,1\nclass0,2\n", "twice"),
        ("name,weight\nclass0,1\n", "has the columns name, weight"),
        ("", "has the columns none"),
        ("class,weight\nclass0,-1\nclass1,1\nclass2,1\nclass3,1\n", "negative"),
        ("class,weight\nclass0,nan\nclass1,1\nclass2,1\nclass3,1\n", "not finite"),
        ('class,weight\nclass0,1\nclass1,"1\nclass2,1\nclass3,1\n', "cannot be read as CSV"),
        ("class,weight\nclass0,0\nclass1,0\nclass2,0\nclass3,0\n", "are 0"),
    ],
)
def test_bad_files_of_weights_are_refused(beton, tmp_path, text, message):
    file = tmp_path / "weights.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        open_loader(weighted(beton, file))


def test_bad_plans_are_refused(beton, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="go together"):
        LoaderPlan(beton, 8, 16, order="weighted")
    with pytest.raises(UserError, match="go together"):
        LoaderPlan(beton, 8, 16, weights=[1.0] * N)
    with pytest.raises(UserError, match=f"the beton has {N} samples"):
        open_loader(weighted(beton, [1.0, 2.0]))
    with pytest.raises(UserError, match="cannot be read"):
        open_loader(weighted(beton, tmp_path / "absent.csv"))
    with pytest.raises(UserError, match="cannot be read"):
        open_loader(weighted(beton, tmp_path / "absent.npy"))
    (tmp_path / "empty.npy").touch()
    with pytest.raises(UserError, match="cannot be read"):
        open_loader(weighted(beton, tmp_path / "empty.npy"))
    assert weighted(beton, [1.0] * N) == weighted(beton, [1.0] * N) != weighted(beton, [2.0] * N)
    assert hash(weighted(beton, [1.0] * N)) == hash(weighted(beton, np.ones(N)))


def test_without_weights_the_columns_have_no_further_rows(beton):
    with open_loader(LoaderPlan(beton, 8, 16, order="random")) as loader:
        assert isinstance(loader.samples, Samples)
        assert loader.samples.num_rows == len(loader.samples) == N
