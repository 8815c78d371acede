"""Crops and flips are functions of (seed, epoch, sample), distributed as in torchvision."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from loaders import kernel_c
from loaders.backends import reference
from loaders.crops import choose_crops, choose_crops_by_numpy
from loaders.plan import LoaderPlan

PLAN = LoaderPlan(
    Path("none.beton"), 8, 32, augment="random_resized_crop", horizontal_flip=True, seed=7
)
NUM_DRAWS = 4000


def crops_of(plan: LoaderPlan, width: int, height: int, epoch: int = 0, count: int = NUM_DRAWS):
    return choose_crops(
        plan, epoch, np.arange(count), np.full(count, width), np.full(count, height)
    )


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 2**31),
    sample=st.integers(0, 2**40),
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    center=st.booleans(),
    scale=st.sampled_from([(0.08, 1.0), (0.25, 0.3), (1.0, 1.0)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (2.0, 3.0)]),
)
def test_each_crop_equals_the_reference_and_is_inside_the_image(
    seed, epoch, sample, width, height, center, scale, ratio
):
    plan = dataclasses.replace(
        PLAN,
        seed=seed,
        augment="center_crop" if center else "random_resized_crop",
        crop_scale=scale,
        crop_ratio=ratio,
    )
    crops = choose_crops(plan, epoch, np.array([sample]), np.array([width]), np.array([height]))
    box, flip = reference.choose_crop(plan, epoch, sample, width, height)
    assert (tuple(crops.boxes[0]), crops.flips[0]) == (box, flip)
    left, top, box_width, box_height = box
    assert left >= 0 and top >= 0 and box_width >= 1 and box_height >= 1
    assert left + box_width <= width and top + box_height <= height


@pytest.mark.skipif(kernel_c.crop_chooser() is None, reason="the C kernel was not built")
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1.0, 1.0), (0.2, 5.0), (2.5, 3.0)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.001, 0.01), (1.0, 1.0)])
@pytest.mark.parametrize("flip", [True, False])
def test_the_c_kernel_draws_the_crops_that_numpy_draws(ratio, scale, flip):
    """Images range from one pixel to narrow strips. A crop fits at the first try, later, or never."""
    draws = np.random.default_rng(5)
    ids = draws.integers(0, 2**64, 5000, np.uint64)
    widths, heights = draws.integers(1, 900, (2, 5000)) ** draws.integers(1, 3, (2, 5000))
    plan = dataclasses.replace(
        PLAN, crop_ratio=ratio, crop_scale=scale, horizontal_flip=flip, crops_per_image=3
    )
    for epoch in (0, 90):
        found = choose_crops(plan, epoch, ids, widths, heights)
        expected = choose_crops_by_numpy(plan, epoch, ids, widths, heights)
        assert np.array_equal(found.boxes, expected.boxes)
        assert np.array_equal(found.flips, expected.flips)
        assert found.boxes.dtype == np.int64 and found.flips.dtype == bool


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (300, 400), (224, 224), (600, 100), (100, 600)]
)
def test_boxes_are_distributed_as_torchvisions(width, height):
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    drawn = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(NUM_DRAWS)]
    )
    theirs = drawn[:, [1, 0, 3, 2]]  # get_params: top, left, height, width
    ours = crops_of(PLAN, width, height).boxes
    for column, name in enumerate(["left", "top", "width", "height"]):
        # By chance, the distance exceeds 0.045 with a probability of at most 0.06 %.
        assert _kolmogorov_smirnov(ours[:, column], theirs[:, column]) < 0.045, name
    of_ours, of_theirs = (np.corrcoef(boxes[:, 2], boxes[:, 3])[0, 1] for boxes in (ours, theirs))
    # 0.06 is about three standard errors of a difference of two correlations over NUM_DRAWS.
    assert of_ours == pytest.approx(of_theirs, abs=0.06)


def _kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    values = np.union1d(a, b)
    a_share, b_share = (np.searchsorted(np.sort(x), values, side="right") / len(x) for x in (a, b))
    return float(np.abs(a_share - b_share).max())


def test_half_of_the_images_are_flipped_independently_of_place_and_epoch():
    flips = np.stack([crops_of(PLAN, 500, 375, epoch).flips for epoch in range(4)])
    # The limits are at least three standard errors over NUM_DRAWS images and four epochs.
    assert flips.mean() == pytest.approx(0.5, abs=0.02)
    assert np.abs(np.corrcoef(flips)[np.triu_indices(4, 1)]).max() < 0.06
    assert (flips[:, 1:] == flips[:, :-1]).mean() == pytest.approx(0.5, abs=0.02)
    assert not crops_of(dataclasses.replace(PLAN, horizontal_flip=False), 500, 375).flips.any()


def test_seed_epoch_and_sample_each_change_the_crop():
    base = crops_of(PLAN, 500, 375).boxes
    assert (base == crops_of(PLAN, 500, 375).boxes).all()
    for other in (
        crops_of(PLAN, 500, 375, epoch=1),
        crops_of(dataclasses.replace(PLAN, seed=8), 500, 375),
    ):
        assert (base != other.boxes).any(axis=1).mean() > 0.99
    assert len(np.unique(base, axis=0)) > 0.99 * len(base)


def test_a_crop_does_not_depend_on_the_batch_it_is_drawn_in():
    alone = choose_crops(PLAN, 3, np.array([41]), np.array([500]), np.array([375])).boxes[0]
    among = choose_crops(
        PLAN, 3, np.array([9, 41, 2]), np.array([30, 500, 70]), np.array([30, 375, 20])
    ).boxes[1]
    assert (alone == among).all()


def test_center_crop_is_the_middle_share_of_the_shorter_side():
    plan = dataclasses.replace(PLAN, augment="center_crop", center_fraction=0.875)
    sizes = np.array([(256, 256), (500, 256), (256, 501), (1, 9)])
    boxes = choose_crops(plan, 0, np.arange(4), sizes[:, 0], sizes[:, 1]).boxes
    assert boxes.tolist() == [
        [16, 16, 224, 224],
        [138, 16, 224, 224],
        [16, 138, 224, 224],
        [0, 4, 1, 1],
    ]
