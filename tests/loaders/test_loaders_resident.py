"""The resident backend: the other backends' batches, to within rounding."""

import dataclasses

import numpy as np
import pytest
import torch

from loaders import open_loader, preflight
from loaders.backends import reference, resident
from loaders.plan import LoaderPlan
from writers.errors import UserError


@pytest.mark.parametrize("stored", ["jpeg", "raw", "mixed"])
@pytest.mark.parametrize("augment", ["random_resized_crop", "center_crop"])
@pytest.mark.parametrize("resolution", [7, 32])
def test_agrees_with_the_reference(betons, stored, augment, resolution):
    plan = LoaderPlan(betons[stored], 8, resolution, augment=augment, horizontal_flip=augment != "center_crop", order="random")
    with open_loader(plan_with(plan, "resident")) as ours, open_loader(plan_with(plan, "reference")) as theirs:
        assert len(ours) == len(theirs) == 5
        for (images, labels), (expected, expected_labels) in zip(ours.epoch(2), theirs.epoch(2), strict=True):
            assert torch.equal(labels, expected_labels) and images.shape == expected.shape
            assert images.is_contiguous(memory_format=torch.channels_last)
            difference = (images.int() - expected.int()).abs()
            # JPEG: libjpeg-turbo with and without its fast inverse DCT; raw: rounding alone.
            most, mean = (1, 0.02) if stored == "raw" else (30, 1)
            assert difference.max() <= most and difference.float().mean() < mean


def plan_with(plan: LoaderPlan, backend: str) -> LoaderPlan:
    return dataclasses.replace(plan, backend=backend)


def test_agrees_with_the_ffcv_backend_on_jpegs(betons):
    """The same decoder: what differs is rounding."""
    plan = LoaderPlan(betons["jpeg"], 8, 24, augment="random_resized_crop", horizontal_flip=True, order="random")
    with open_loader(plan_with(plan, "resident")) as ours, open_loader(plan_with(plan, "ffcv")) as theirs:
        for (images, _), (expected, _) in zip(ours.epoch(0), theirs.epoch(0), strict=True):
            assert (images.int() - expected.int()).abs().max() <= 1


def test_the_memory_of_a_batch_is_bounded_and_changes_nothing(betons, monkeypatch):
    plan = LoaderPlan(betons["raw"], 16, 20, augment="random_resized_crop", order="random", backend="resident")
    with open_loader(plan) as loader:
        expected = [images.clone() for images, _ in loader.epoch(0)]
        monkeypatch.setattr(resident, "_GATHERED_BYTES", 12 * 60 * 60)
        for images, whole in zip((images for images, _ in loader.epoch(0)), expected, strict=True):
            assert (images.int() - whole.int()).abs().max() <= 1


@pytest.mark.parametrize(("source", "target"), [(1, 5), (2, 5), (5, 5), (11, 5), (200, 7), (3, 4)])
def test_weights_are_the_slow_twins(source, target):
    ours = resident.axis_weights(torch.tensor([source]), source + 3, target)[0].numpy()
    assert ours[:, :source] == pytest.approx(reference.axis_weights(source, target), abs=1e-6)
    assert (ours[:, source:] == 0).all()
    assert ours.sum(axis=1) == pytest.approx(np.ones(target))


def test_it_is_refused_where_it_cannot_serve(betons, monkeypatch):
    plan = LoaderPlan(betons["raw"], 8, 16, backend="resident")
    with pytest.raises(UserError, match="skips none"):
        open_loader(dataclasses.replace(plan, on_corrupt="skip"))
    monkeypatch.setattr(resident, "free_memory_bytes", lambda: 1000)
    with pytest.raises(UserError, match="once decoded"):
        open_loader(plan)


def test_auto_is_the_ffcv_backend_on_a_cpu(betons):
    with open_loader(LoaderPlan(betons["raw"], 8, 16, backend="auto")) as loader:
        assert loader.plan.backend == "ffcv"


def test_preflight_says_what_to_change(betons, monkeypatch):
    plan = LoaderPlan(betons["raw"], 8, 16, order="random")
    assert preflight.warnings(plan) == []
    assert "Lower batch_size" in preflight.warnings(dataclasses.replace(plan, batch_size=2**20, resolution=224))[0]
    assert "threads for" in preflight.warnings(dataclasses.replace(plan, num_threads=4096))[0]
    monkeypatch.setattr(preflight, "free_memory_bytes", lambda: 1000)
    assert "quasi_random" in preflight.warnings(plan)[0]
    assert 0 < preflight.slot_bytes(plan) == 4 * 8 * 3 * 16 * 16
