"""Pixels of the ffcv backend equal the reference's and are close to Pillow's and torchvision's."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from loaders import open_loader
from loaders.backends import reference
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import photo, write_beton


def whole_epoch(
    plan: LoaderPlan, epoch: int = 0, resolution: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    with open_loader(plan) as loader, loader.epoch(epoch, resolution) as batches:
        images, labels = zip(
            *[(images.clone(), labels.clone()) for images, labels in batches], strict=True
        )
    return torch.cat(images), torch.cat(labels)


def plan_of(beton: Path, **changes: object) -> LoaderPlan:
    plan = LoaderPlan(
        beton, 8, 24, augment="random_resized_crop", horizontal_flip=True, order="random", seed=11
    )
    return dataclasses.replace(plan, **changes)


@pytest.mark.parametrize("stored", ["raw", "jpeg", "mixed"])
@pytest.mark.parametrize("augment", ["random_resized_crop", "center_crop"])
@pytest.mark.parametrize("resolution", [1, 24, 131])
@pytest.mark.parametrize("interpolation", ["area", "bicubic"])
def test_fast_path_agrees_with_the_reference(betons, stored, augment, resolution, interpolation):
    plan = plan_of(
        betons[stored], augment=augment, resolution=resolution, interpolation=interpolation
    )
    fast, fast_labels = whole_epoch(plan)
    slow, slow_labels = whole_epoch(dataclasses.replace(plan, backend="reference"))
    assert fast.shape == (36, 3, resolution, resolution) and fast.dtype == torch.uint8
    assert (fast_labels == slow_labels).all()
    assert torch.equal(fast, slow)


def test_whole_numbers_of_pixels_are_averaged_as_pillow_does(tmp_path):
    image = photo(96, 96, seed=1)
    beton = write_beton(tmp_path / "one.beton", [image], [0], raw=[True])
    ours, _ = whole_epoch(LoaderPlan(beton, 1, 32, augment="center_crop", center_fraction=1.0))
    box = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX))
    # .5 may be rounded either way
    assert np.abs(ours[0].permute(1, 2, 0).numpy().astype(int) - box).max() <= 1


@pytest.mark.parametrize(("size", "resolution", "mean_levels"), [(96, 40, 2.0), (40, 96, 0.6)])
def test_resize_is_close_to_torchvisions_antialiased_one(size, resolution, mean_levels):
    """When shrinking, torchvision's filter is a triangle twice as wide as our box filter.

    When enlarging, both are bilinear.
    """
    image = photo(size, size, seed=2)
    ours = reference.resize(image, resolution).astype(int)
    theirs = functional.resize(
        torch.from_numpy(image).permute(2, 0, 1), [resolution, resolution], antialias=True
    )
    assert np.abs(ours - theirs.permute(1, 2, 0).numpy()).mean() < mean_levels


@pytest.mark.parametrize(
    ("source", "target"), [(7, 3), (3, 7), (5, 5), (1, 4), (4, 1), (1000, 224)]
)
def test_weights_of_the_reference_keep_the_mean_and_are_symmetric(source, target):
    weights = reference.exact_weights(source, target)
    assert weights.shape == (target, source) and (weights >= 0).all()
    assert weights.sum(axis=1) == pytest.approx(1)
    assert weights == pytest.approx(weights[::-1, ::-1])
    if source > target:
        # Every source pixel counts the same.
        assert weights.sum(axis=0) == pytest.approx(target / source)
    rounded = reference.axis_weights(source, target)
    assert (rounded.sum(axis=1) == 2**14).all() and np.abs(rounded - 2**14 * weights).max() <= 1


def test_same_pixels_for_any_threads_and_batch_size_and_sub_view(betons):
    plan = plan_of(betons["mixed"])
    images, labels = whole_epoch(plan, epoch=3)
    for changes in (
        {"num_threads": 2},
        {"num_threads": 4, "batches_ahead": 1},
        {"batch_size": 5, "num_threads": 2},
        {"batch_size": 100},
    ):
        others, other_labels = whole_epoch(dataclasses.replace(plan, **changes), epoch=3)
        assert torch.equal(images, others) and torch.equal(labels, other_labels), changes
    whole, _ = whole_epoch(plan_of(betons["mixed"], order="sequential"), epoch=3)
    part, _ = whole_epoch(plan_of(betons["mixed"], order="sequential", indices=(30, 4)), epoch=3)
    assert torch.equal(part, whole[[30, 4]])


def test_epochs_and_seeds_differ_and_repeat(betons):
    plan = plan_of(betons["raw"], order="sequential")
    first, _ = whole_epoch(plan, epoch=0)
    assert torch.equal(first, whole_epoch(plan, epoch=0)[0])
    for other in (
        whole_epoch(plan, epoch=1)[0],
        whole_epoch(dataclasses.replace(plan, seed=12), epoch=0)[0],
    ):
        assert (first != other).flatten(1).any(
            dim=1
        ).float().mean() > 0.6  # the narrow third has one crop


def test_resolution_may_change_between_epochs(betons):
    with open_loader(plan_of(betons["mixed"])) as loader:
        for epoch, resolution in enumerate([16, 40, 16]):
            with loader.epoch(epoch, resolution) as batches:
                images = torch.cat([images.clone() for images, _ in batches])
            assert torch.equal(
                images, whole_epoch(plan_of(betons["mixed"], resolution=resolution), epoch)[0]
            )


def test_flip_mirrors_the_very_same_crop(betons):
    plan = plan_of(betons["raw"], order="sequential")
    flipped, _ = whole_epoch(plan)
    plain, _ = whole_epoch(dataclasses.replace(plan, horizontal_flip=False))
    mirrored = torch.tensor([not torch.equal(a, b) for a, b in zip(flipped, plain, strict=True)])
    assert torch.equal(flipped[mirrored], plain[mirrored].flip(3))
    assert 8 <= mirrored.sum() <= 28


def test_batches_are_channels_last_on_the_plans_device(betons):
    with open_loader(plan_of(betons["jpeg"])) as loader, loader.epoch(0) as batches:
        images, labels = next(batches)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.shape == (
            8,
            3,
            24,
            24,
        )
        assert labels.dtype == torch.int64 and labels.shape == (8,)
        assert images.device == labels.device == torch.device("cpu")
