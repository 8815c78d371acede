"""Batches of the resident backend equal those of ffcv and of the reference bit for bit."""

import dataclasses

import numpy as np
import pytest
import torch

from loaders import open_loader
from loaders.backends import reference, resident
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import jpeg, photo, write_beton
from writers.errors import UserError


@pytest.mark.parametrize("stored", ["jpeg", "raw", "mixed"])
@pytest.mark.parametrize("augment", ["random_resized_crop", "center_crop"])
@pytest.mark.parametrize("resolution", [7, 32])
def test_agrees_with_the_reference(betons, stored, augment, resolution):
    plan = LoaderPlan(
        betons[stored],
        8,
        resolution,
        augment=augment,
        horizontal_flip=augment != "center_crop",
        order="random",
    )
    with (
        open_loader(plan_with(plan, "resident")) as ours,
        open_loader(plan_with(plan, "reference")) as theirs,
    ):
        assert len(ours) == len(theirs) == 5
        for (images, labels), (expected, expected_labels) in zip(
            ours.epoch(2), theirs.epoch(2), strict=True
        ):
            assert torch.equal(labels, expected_labels) and images.shape == expected.shape
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(images, expected)


def plan_with(plan: LoaderPlan, backend: str) -> LoaderPlan:
    return dataclasses.replace(plan, backend=backend)


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def as_on(request, monkeypatch) -> str:
    """Run a test twice: with the code for CPUs, and with the code that resizes on a GPU."""
    if request.param == "as on a GPU":
        real = resident.ResidentLoader.__init__

        def without_kernel(self: resident.ResidentLoader, *arguments: object) -> None:
            real(self, *arguments)
            self._kernel = None

        monkeypatch.setattr(resident.ResidentLoader, "__init__", without_kernel)
    return request.param


@pytest.mark.parametrize("stored", ["jpeg", "raw", "mixed"])
@pytest.mark.parametrize("resolution", [1, 5, 32, 150])
@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
def test_gives_the_ffcv_backends_pixels_bit_for_bit(
    betons, stored, resolution, interpolation, as_on
):
    plan = LoaderPlan(
        betons[stored],
        8,
        resolution,
        interpolation=interpolation,
        augment="random_resized_crop",
        horizontal_flip=True,
        order="random",
    )
    with (
        open_loader(plan_with(plan, "resident")) as ours,
        open_loader(plan_with(plan, "ffcv")) as theirs,
    ):
        for epoch in range(3):
            for (images, labels), (expected, expected_labels) in zip(
                ours.epoch(epoch), theirs.epoch(epoch), strict=True
            ):
                assert torch.equal(images, expected) and torch.equal(labels, expected_labels)


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 36}, {"num_threads": 3}])
def test_the_size_of_a_batch_changes_no_pixel(betons, changes, as_on):
    plan = LoaderPlan(
        betons["mixed"], 8, 20, augment="random_resized_crop", order="random", backend="resident"
    )
    with open_loader(plan) as loader, open_loader(dataclasses.replace(plan, **changes)) as other:
        assert torch.equal(
            *(torch.cat([images for images, _ in one.epoch(1)]) for one in (loader, other))
        )


def test_the_memory_of_a_batch_is_bounded_and_changes_nothing(betons, monkeypatch, as_on):
    plan = LoaderPlan(
        betons["raw"], 16, 20, augment="random_resized_crop", order="random", backend="resident"
    )
    with open_loader(plan) as loader:
        expected = [images.clone() for images, _ in loader.epoch(0)]
        monkeypatch.setattr(resident, "_RUN_PIXELS", 3 * 20 * 40)
        monkeypatch.setattr(resident, "_STAGED_BYTES", 5000)
        runs = list(
            resident._runs(
                np.array([[0, 0, 50, 30], [0, 0, 9, 40], [0, 0, 2, 500], [0, 0, 1, 1]]), 20
            )
        )
        assert runs == [(slice(0, 2), 50, 40), (slice(2, 3), 2, 500), (slice(3, 4), 1, 1)]
        found = [images.clone() for images, _ in loader.epoch(0)]
        assert len(found) == len(expected) == 3 and all(map(torch.equal, found, expected))
    with open_loader(plan) as loader:
        found = [images.clone() for images, _ in loader.epoch(0)]
        assert len(found) == len(expected) == 3 and all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("source", "target"), [(1, 5), (2, 5), (5, 5), (11, 5), (200, 7), (3, 4), (4, 1)]
)
def test_taps_equal_the_weights_of_the_reference(source, target):
    starts, shares = resident.taps(torch.tensor([source]), target, source + 300)
    dense = np.zeros((target, source + 310), int)
    for place, (start, row) in enumerate(zip(starts[0].tolist(), shares[0].numpy(), strict=True)):
        dense[place, start : start + len(row)] = row
    assert np.array_equal(dense[:, :source], reference.axis_weights(source, target))
    assert (dense[:, source:] == 0).all()


def test_a_damaged_image_is_an_error_or_left_out(tmp_path, as_on):
    images = [photo(50, 30, seed=number) for number in range(6)]
    blobs = [jpeg(image) for image in images]
    blobs[4] = blobs[4][:300]
    beton = write_beton(
        tmp_path / "t.beton", images, [0, 1, 2, 0, 1, 2], raw=[False] * 6, blobs=blobs
    )
    plan = LoaderPlan(beton, 3, 16, backend="resident")
    with pytest.raises(UserError, match=r"Sample 4 of .*t\.beton does not decode"):
        open_loader(plan)
    skipping = dataclasses.replace(plan, on_corrupt="skip")
    with open_loader(skipping) as ours, open_loader(plan_with(skipping, "ffcv")) as theirs:
        for (images, labels), (expected, expected_labels) in zip(
            ours.epoch(0), theirs.epoch(0), strict=True
        ):
            assert torch.equal(images, expected) and torch.equal(labels, expected_labels)
        assert list(ours.skipped) == list(theirs.skipped) == [4]
    with (
        open_loader(dataclasses.replace(skipping, batch_size=1)) as loader,
        pytest.raises(UserError, match=r"Every image of a batch is damaged \(1 "),
    ):
        list(loader.epoch(0))


def test_a_beton_that_does_not_fit_in_memory_is_refused(betons, monkeypatch):
    plan = LoaderPlan(betons["raw"], 8, 16, backend="resident")
    monkeypatch.setattr(resident, "free_memory_bytes", lambda: 1000)
    with pytest.raises(UserError, match="once it is decoded"):
        open_loader(plan)


def test_auto_is_the_ffcv_backend_on_a_cpu(betons):
    with open_loader(LoaderPlan(betons["raw"], 8, 16, backend="auto")) as loader:
        assert loader.plan.backend == "ffcv"
