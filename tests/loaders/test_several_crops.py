"""Several crops of an image that is decoded once equal the crops that are decoded one by one."""

import dataclasses
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loaders import kernel, kernel_c, open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import jpeg, photo, write_beton
from writers.beton.encoding import DCT, JPEG, RAW
from writers.dct.blob import from_jpeg
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
def test_several_crops_equal_the_reference_and_the_first_equals_a_single_crop(
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
def test_several_crops_of_an_indexed_jpeg_equal_the_reference(tmp_path):
    pictures = [photo(160 + 9 * number, 120 + 7 * number, seed=number) for number in range(12)]
    blobs = [add_restart_index(jpeg(picture)) for picture in pictures]
    beton = write_beton(tmp_path / "t.beton", pictures, [0] * 12, raw=[False] * 12, blobs=blobs)
    plan = plan_of(beton, crop_scale=(0.05, 0.2), crops_per_image=4)
    slow, _ = whole_epoch(dataclasses.replace(plan, backend="reference"))
    assert torch.equal(whole_epoch(plan)[0], slow)


# In an image of 150 x 110 pixels: far apart, so that rows and blocks between them are not needed;
# nested; at odd places; at borders; and of one pixel.
PLACES = [
    [[0, 0, 31, 20], [119, 80, 31, 30]],
    [[119, 3, 30, 20], [1, 77, 40, 33], [60, 40, 9, 9]],
    [[10, 10, 100, 90], [33, 41, 20, 17]],
    [[0, 0, 150, 110], [149, 109, 1, 1], [0, 50, 1, 60]],
    [[71, 13, 8, 8], [5, 13, 7, 9], [101, 60, 49, 3]],
]


def stored_forms(sampling: str) -> list[tuple[int, bytes]]:
    pixels = photo(150, 110, seed=3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88, subsampling=sampling)
    blob = buffer.getvalue()
    return [
        (JPEG, blob),
        (JPEG, add_restart_index(blob)),
        (DCT, from_jpeg(blob)),
        (RAW, pixels.tobytes()),
    ]


@pytest.mark.skipif(
    not built or importlib.util.find_spec("writers._kernel") is None,
    reason="the package's C parts were not built",
)
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("name", kernel_c.instruction_sets())
def test_distant_and_nested_crops_equal_single_crops(name, sampling):
    pool, none = kernel_c.Pool(1, name), np.empty((0, 256), np.float16)

    def crops_of(mode: int, blob: bytes, boxes: list[list[int]], flips: list[bool]) -> np.ndarray:
        output = np.full((1, len(boxes), 40, 40, 3), 99, np.uint8)
        error_codes = np.ones(1, np.uint8)
        file = np.frombuffer(blob + bytes(512), np.uint8)
        columns = (np.array([value]) for value in (0, len(blob), mode, 150, 110))
        images = kernel_c.stored_images(file, *columns)
        pool.make_batch(
            images,
            np.zeros(1, np.int64),
            np.array(boxes),
            np.array(flips),
            output,
            error_codes,
            none,
        )
        assert not error_codes.any()
        return output[0]

    for mode, blob in stored_forms(sampling):
        # Fill the memory that images are decoded to with other pixels.
        crops_of(mode, blob, [[0, 0, 150, 110]], [False])
        for boxes in PLACES:
            flips = [number % 2 == 1 for number in range(len(boxes))]
            together = crops_of(mode, blob, boxes, flips)
            for number, (box, flip) in enumerate(zip(boxes, flips, strict=True)):
                assert np.array_equal(together[number], crops_of(mode, blob, [box], [flip])[0])


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


def test_crops_of_one_image_are_independent(betons):
    """The flips of two views agree for half of many samples."""
    from loaders.crops import choose_crops

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


def test_contradicting_plans_are_refused(betons):
    with pytest.raises(UserError, match="all crops are equal"):
        plan_of(betons["raw"], augment="center_crop")
    with pytest.raises(UserError, match="at least 1"):
        plan_of(betons["raw"], crops_per_image=0)
