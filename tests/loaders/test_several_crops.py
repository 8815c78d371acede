"""Several crops of an image that is decoded once: each is the crop that it would be alone."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import kernel, open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import jpeg, photo, write_beton
from writers.errors import UserError
from writers.jpeg.restart_index import add_restart_index

built = importlib.util.find_spec("loaders._kernel") is not None


def plan_of(beton: Path, **changes: object) -> LoaderPlan:
    plan = LoaderPlan(
        beton,
        8,
        24,
        augment="random_resized_crop",
        horizontal_flip=True,
        order="random",
        seed=5,
        num_threads=2,
        crops_per_image=3,
    )
    return dataclasses.replace(plan, **changes)


def whole_epoch(plan: LoaderPlan, epoch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    with open_loader(plan) as loader:
        batches = [(images.clone(), labels.clone()) for images, labels in loader.epoch(epoch)]
    return torch.cat([images for images, _ in batches]), torch.cat(
        [labels for _, labels in batches]
    )


@pytest.mark.parametrize("stored", ["raw", "jpeg", "mixed"])
@pytest.mark.parametrize(
    "used", [pytest.param("c", marks=pytest.mark.skipif(not built, reason="not built")), "numba"]
)
def test_they_are_the_slow_twins_and_the_first_is_the_only_one_of_other_plans(
    betons, stored, used, monkeypatch
):
    monkeypatch.setattr(kernel, "best_kernel", lambda: used)
    plan = plan_of(betons[stored])
    images, labels = whole_epoch(plan)
    assert images.shape == (36, 3, 3, 24, 24) and labels.shape == (36,)
    slow, slow_labels = whole_epoch(dataclasses.replace(plan, backend="reference"))
    assert torch.equal(images, slow) and torch.equal(labels, slow_labels)
    one, _ = whole_epoch(dataclasses.replace(plan, crops_per_image=1))
    assert one.shape == (36, 3, 24, 24) and torch.equal(images[:, 0], one)
    assert not torch.equal(images[:, 1], images[:, 0])


@pytest.mark.skipif(
    importlib.util.find_spec("writers._kernel") is None,
    reason="the package's C parts were not built",
)
def test_of_indexed_images_only_what_the_crops_need_is_decoded_to_the_same_pixels(tmp_path):
    pictures = [photo(160 + 9 * number, 120 + 7 * number, seed=number) for number in range(12)]
    blobs = [add_restart_index(jpeg(picture)) for picture in pictures]
    beton = write_beton(tmp_path / "t.beton", pictures, [0] * 12, raw=[False] * 12, blobs=blobs)
    plan = plan_of(beton, crop_scale=(0.05, 0.2), crops_per_image=4)
    slow, _ = whole_epoch(dataclasses.replace(plan, backend="reference"))
    assert torch.equal(whole_epoch(plan)[0], slow)


def test_each_batch_size_and_type_has_the_same_crops(betons):
    plan = plan_of(betons["mixed"])
    images, _ = whole_epoch(plan)
    assert torch.equal(whole_epoch(dataclasses.replace(plan, batch_size=36))[0], images)
    half = {"dtype": "float16", "mean": (0.5,) * 3, "std": (0.25,) * 3}
    halves, _ = whole_epoch(dataclasses.replace(plan, **half))
    assert torch.equal(halves, ((images.double() / 255 - 0.5) / 0.25).half())


def test_damaged_images_are_left_out_with_all_of_their_crops(tmp_path):
    pictures = [photo(50, 30, seed=number) for number in range(6)]
    blobs = [jpeg(picture) for picture in pictures]
    blobs[4] = blobs[4][:300]
    beton = write_beton(
        tmp_path / "t.beton", pictures, list(range(6)), raw=[False] * 6, blobs=blobs
    )
    images, labels = whole_epoch(plan_of(beton, on_corrupt="skip", order="sequential"))
    slow, _ = whole_epoch(
        plan_of(beton, on_corrupt="skip", order="sequential", backend="reference")
    )
    assert labels.tolist() == [0, 1, 2, 3, 5] and torch.equal(images, slow)
    with pytest.raises(UserError, match="Sample 4 of"):
        whole_epoch(plan_of(beton))


def test_views_are_unrelated(betons):
    """The flips of two views agree for half of many samples."""
    from loaders.augment import choose_crops

    plan = plan_of(betons["raw"], crops_per_image=2)
    n = 4000
    crops = choose_crops(plan, 0, np.arange(n), np.full(n, 500), np.full(n, 400))
    assert crops.boxes.shape == (2 * n, 4)
    flips = crops.flips.reshape(n, 2)
    assert abs((flips[:, 0] == flips[:, 1]).mean() - 0.5) < 0.04
    lefts = crops.boxes[:, 0].reshape(n, 2)
    assert abs(np.corrcoef(lefts.T)[0, 1]) < 0.06


@pytest.mark.parametrize("backend", ["resident", "synthetic", "replay"])
def test_backends_of_one_crop_refuse_it(betons, backend):
    with pytest.raises(UserError, match="makes one crop of each image"):
        open_loader(plan_of(betons["raw"], backend=backend))


def test_plans_that_cannot_be_meant_are_refused(betons):
    with pytest.raises(UserError, match="all crops are equal"):
        plan_of(betons["raw"], augment="center_crop")
    with pytest.raises(UserError, match="at least 1"):
        plan_of(betons["raw"], crops_per_image=0)
