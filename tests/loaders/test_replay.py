"""Replayed batches: real ones, of the right lengths, the same again and again."""

import dataclasses

import pytest
import torch

from loaders import open_loader
from loaders.backends import replay as replaying
from loaders.plan import LoaderPlan
from writers.errors import UserError


def test_replay_gives_the_first_batches_again_and_again(betons, monkeypatch):
    """36 images are 4 batches of 8 and one of 4. The first two batches of 8 are kept."""
    monkeypatch.setattr(replaying, "NUM_BATCHES", 2)
    plan = LoaderPlan(
        betons["mixed"], 8, 20, augment="random_resized_crop", order="random", backend="replay"
    )
    with open_loader(dataclasses.replace(plan, backend="ffcv")) as real, real.epoch(3) as batches:
        kept = [(images.clone(), labels.clone()) for images, labels in batches][:2]
    with open_loader(plan) as loader:
        for epoch in (3, 4):  # the second epoch decodes nothing
            found = list(loader.epoch(epoch))
            assert [len(labels) for _, labels in found] == [8, 8, 8, 8, 4]
            for number, (images, labels) in enumerate(found):
                expected, expected_labels = kept[number % 2]
                assert torch.equal(images, expected[: len(images)])
                assert torch.equal(labels, expected_labels[: len(labels)])
                assert images.is_contiguous(memory_format=torch.channels_last)
        assert [len(labels) for _, labels in loader.epoch(5, start_batch=3)] == [8, 4]
        assert next(loader.epoch(6, resolution=12))[0].shape == (8, 3, 12, 12)


def test_replay_decodes_nothing_once_it_has_its_batches(betons, monkeypatch):
    with open_loader(LoaderPlan(betons["jpeg"], 8, 20, backend="replay")) as loader:
        before = list(loader.epoch(0))
        monkeypatch.setattr(
            replaying.ffcv, "open_loader", lambda plan: pytest.fail("a loader was opened")
        )
        assert [images.data_ptr() for images, _ in loader.epoch(1)] == [
            images.data_ptr() for images, _ in before
        ]


def test_replay_of_a_set_smaller_than_a_batch(betons):
    with open_loader(
        LoaderPlan(betons["raw"], 100, 16, backend="replay", rank=1, world_size=2)
    ) as loader:
        assert [labels.shape for _, labels in loader.epoch(0)] == [(18,)]


def test_poison_is_refused_with_replay(betons):
    with pytest.raises(UserError, match="poison"):
        open_loader(LoaderPlan(betons["raw"], 8, 16, backend="replay", poison=True))
