"""Parity with a PyTorch pipeline.

Two real photographs are loaded by our loader, and by Pillow and torchvision.

The same crops of the same JPEGs may differ from torchvision's antialiased resize by at most 3
levels on average. The PSNR is at least 35 dB, and the mean of a color differs by at most 0.05
levels. If images shrink, the filters differ (an area, and a triangle twice as wide). On such
images, torchvision's own resize without antialiasing differs by 5 dB more. test_augment.py compares
the distribution of crops with torchvision's.
"""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2 import functional

from loaders import open_loader
from loaders.crops import choose_crops
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import jpeg, write_beton

NUM_EPOCHS = 6
MOST_LEVELS, LEAST_DB, MOST_SHIFT = 3.0, 35.0, 0.05


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    """Return two photographs of 640 x 427 pixels, a temple and a flower, as JPEGs."""
    return [jpeg(pixels, quality=95) for pixels in load_sample_images().images]


@pytest.fixture(scope="module")
def beton(photos, tmp_path_factory) -> Path:
    pixels = load_sample_images().images
    return write_beton(
        tmp_path_factory.mktemp("photos") / "t.beton", pixels, [0, 1], raw=[False] * 2, blobs=photos
    )


def decode(photo: bytes) -> torch.Tensor:
    """Return the pixels that Pillow decodes, uint8 [3, H, W]."""
    return functional.pil_to_tensor(Image.open(io.BytesIO(photo)))


def psnr(difference: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max((difference**2).mean(), 1e-10)))


@pytest.mark.parametrize("augment", ["random_resized_crop", "center_crop"])
@pytest.mark.parametrize("resolution", [224, 128])
def test_a_batch_is_torchvisions_to_the_stated_tolerance(photos, beton, augment, resolution):
    plan = LoaderPlan(
        beton, 2, resolution, augment=augment, horizontal_flip=augment != "center_crop", seed=4
    )
    decoded = [decode(photo) for photo in photos]
    gained = []
    with open_loader(plan) as loader:
        for epoch in range(NUM_EPOCHS):
            samples = loader.samples
            crops = choose_crops(plan, epoch, samples.ids, samples.widths, samples.heights)
            images = next(loader.epoch(epoch))[0].clone()
            for ours, image, box, flip in zip(
                images, decoded, crops.boxes.tolist(), crops.flips, strict=True
            ):
                left, top, width, height = box
                resized = [
                    functional.resized_crop(
                        image, top, left, height, width, [resolution] * 2, antialias=antialias
                    )
                    for antialias in (True, False)
                ]
                careful, quick = (one.double().numpy() for one in resized)
                ours = (ours.flip(2) if flip else ours).double().numpy()
                difference = ours - careful
                assert np.abs(difference).mean() < MOST_LEVELS and psnr(difference) > LEAST_DB
                assert np.abs(difference.mean(axis=(1, 2))).max() < MOST_SHIFT
                if min(width, height) > 1.5 * resolution:
                    gained.append(psnr(difference) - psnr(quick - careful))
    assert gained and min(gained) > 5


def test_pixels_that_are_not_resized_equal_pillows(photos, beton):
    with open_loader(LoaderPlan(beton, 2, 427, center_fraction=1.0)) as loader:
        images = next(loader.epoch(0))[0].clone()
    for ours, photo in zip(images, photos, strict=True):
        assert torch.equal(ours, functional.center_crop(decode(photo), [427, 427]))
