"""Parameters of augmentations: their distributions, and the images that each operation changes."""

import numpy as np
import pytest
import torch
from scipy import stats

from loaders.augmentations import (
    Augmentations,
    ColorJitter,
    RandAugment,
    RandomErasing,
    draws,
    regions,
)
from writers.random_streams import sample_ids

IDS = sample_ids(map(str, range(4000)))
SIGNIFICANCE = 1e-4  # significance level of the tests, which have fixed seeds


def is_uniform(values: np.ndarray, low: float, high: float) -> bool:
    return stats.kstest(values, "uniform", args=(low, high - low)).pvalue > SIGNIFICANCE


def test_color_jitter_has_torchvisions_ranges_and_every_order():
    drawn = draws.jitter(ColorJitter(brightness=0.4, contrast=1.5, hue=0.1), 3, 1, IDS)
    assert is_uniform(drawn.factors[:, 0], 0.6, 1.4)
    assert is_uniform(drawn.factors[:, 1], 0.0, 2.5)
    assert (drawn.factors[:, 2] == 1).all()
    assert is_uniform(drawn.factors[:, 3], -0.1, 0.1)
    orders, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert stats.chisquare(counts).pvalue > SIGNIFICANCE


def test_the_largest_and_smallest_words_give_finite_normal_variables():
    words = np.array([0, 2**64 - 1], np.uint64)
    assert np.isfinite(draws._normal(words)).all()


def test_lighting_has_the_covariance_of_the_components():
    colors = draws.lighting(0.1, 3, 1, IDS)
    expected = 0.1**2 * draws.PCA_COLORS @ np.diag(draws.PCA_STD**2) @ draws.PCA_COLORS.T
    assert np.allclose(np.cov(colors.T), expected, atol=2e-5)
    red = stats.kstest(colors[:, 0], "norm", args=(0, expected[0, 0] ** 0.5))
    assert red.pvalue > SIGNIFICANCE


def test_randaugment_chooses_evenly_and_applies_a_fraction():
    settings = RandAugment(ops="timm", magnitude=9, magnitude_std=0.5, probability=0.5)
    drawn = draws.rand_ops(settings, 15, 3, 1, IDS)
    counts = np.bincount(drawn.ops[drawn.ops >= 0], minlength=15)
    assert stats.chisquare(counts).pvalue > SIGNIFICANCE
    assert stats.binomtest(int((drawn.ops >= 0).sum()), drawn.ops.size, 0.5).pvalue > SIGNIFICANCE
    assert stats.binomtest(int((drawn.signs > 0).sum()), drawn.ops.size).pvalue > SIGNIFICANCE
    below = drawn.magnitudes[drawn.magnitudes < 10]
    assert drawn.magnitudes.max() == 10
    assert below.min() > 6
    truncated = stats.truncnorm(-np.inf, 2, loc=9, scale=0.5)
    assert stats.kstest(below, truncated.cdf).pvalue > SIGNIFICANCE


def test_rectangles_have_the_ranges_of_the_paper():
    drawn = draws.rectangles(RandomErasing(probability=0.3), 3, 1, IDS)
    assert stats.binomtest(int(drawn.erased.sum()), len(IDS), 0.3).pvalue > SIGNIFICANCE
    assert is_uniform(drawn.areas[:, 0], 0.02, 1 / 3)
    assert is_uniform(np.log(drawn.ratios[:, 0]), np.log(0.3), -np.log(0.3))
    boxes = regions.boxes_to_erase(drawn, 224, 160)
    heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (heights[~drawn.erased] == 0).all()
    erased = heights > 0
    assert erased.sum() == drawn.erased.sum()
    assert boxes.min() == 0
    assert (boxes <= [224, 160, 224, 160]).all()
    assert (np.abs(heights * widths / (224 * 160) - drawn.areas[:, 0])[erased] < 0.01).mean() > 0.9


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixes_are_beta_and_switch(alpha):
    settings = Augmentations(mixup=alpha, cutmix=2.0, mix_probability=0.8, cutmix_share=0.3)
    drawn = draws.mixes(settings, 3, 1, IDS)
    mixed = drawn.own < 1
    assert stats.binomtest(int(mixed.sum()), len(IDS), 0.8).pvalue > SIGNIFICANCE
    assert stats.binomtest(int(drawn.cuts.sum()), len(IDS), 0.3).pvalue > SIGNIFICANCE
    for cuts, shape in ((False, alpha), (True, 2.0)):
        own = drawn.own[mixed & (drawn.cuts == cuts)]
        assert stats.kstest(own, "beta", args=(shape, shape)).pvalue > SIGNIFICANCE


@pytest.mark.parametrize(
    ("settings", "share"), [({"mixup": 0.4}, 0.0), ({"cutmix": 0.4}, 1.0)], ids=["mixup", "cutmix"]
)
def test_one_kind_of_mixing_is_used_always(settings, share):
    drawn = draws.mixes(Augmentations(**settings), 3, 1, IDS)
    assert drawn.cuts.mean() == share
    assert (drawn.own < 1).mean() > 0.999


def test_streams_of_augmentations_epochs_and_seeds_are_unrelated():
    base = draws.mixes(Augmentations(mixup=1.0), 0, 0, IDS).own
    others = [
        draws.mixes(Augmentations(mixup=1.0), 1, 0, IDS).own,
        draws.mixes(Augmentations(mixup=1.0), 0, 1, IDS).own,
        draws.jitter(ColorJitter(brightness=1.0), 0, 0, IDS).factors[:, 0],
        draws.rectangles(RandomErasing(), 0, 0, IDS).areas[:, 0],
    ]
    for other in others:
        assert abs(stats.spearmanr(base, other).statistic) < 0.07


def test_noise_is_nearly_normal_and_equal_to_a_plain_loop():
    keys = IDS[:3]
    noise = regions._noise(keys, 40, 50, torch.device("cpu")).numpy()
    z = (noise[..., 0].ravel().astype(float) - regions.MEAN[0]) / regions.STD[0]
    inside = (noise[..., 0].ravel() > 0) & (noise[..., 0].ravel() < 255)
    for quantile in (-1.5, -0.5, 0.5, 1.5):
        assert abs((z < quantile).mean() - stats.norm.cdf(quantile)) < 0.02
    assert inside.mean() > 0.9

    mask = 2**64 - 1

    def word(key: int, number: int) -> int:
        mixed = (key + number * 0x9E3779B97F4A7C15) & mask
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        return mixed ^ (mixed >> 31)

    for row, key in enumerate(keys.tolist()):
        for place in (0, 1, 2, 299, 5999):
            normal = (sum(word(key, place + 1).to_bytes(8, "little")) - 1020) / 43690**0.5
            channel = place % 3
            level = round(regions.MEAN[channel] + regions.STD[channel] * normal)
            assert abs(int(noise[row].ravel()[place]) - min(255, max(0, level))) <= 1


def test_erasing_fills_the_box_and_nothing_else():
    images = torch.full((64, 20, 30, 3), 7, dtype=torch.uint8)
    for fill in ("mean", "color", "noise"):
        drawn = draws.rectangles(RandomErasing(probability=0.7, fill=fill), 3, 1, IDS[:64])
        boxes = regions.boxes_to_erase(drawn, 20, 30)
        erased = regions.erase(images, drawn, fill)
        colors: set[tuple[int, ...]] = set()
        for image, (top, left, bottom, right) in zip(erased, boxes, strict=True):
            outside = image.clone()
            outside[top:bottom, left:right] = 7
            assert (outside == 7).all()
            box = image[top:bottom, left:right].reshape(-1, 3)
            colors |= set(map(tuple, box.tolist()))
            if fill == "mean" and len(box):
                assert (box == torch.tensor([124, 116, 104], dtype=torch.uint8)).all()
            if fill == "color" and len(box):
                assert (box == box[0]).all()
            if fill == "noise" and len(box) > 20:
                assert len(box.unique(dim=0)) > 10
        num_erased = int((boxes[:, 2] > boxes[:, 0]).sum())
        assert num_erased > 30
        # Each image has its own color.
        assert len(colors) == {"mean": 1, "color": num_erased}.get(fill, len(colors))
        assert (images == 7).all()
