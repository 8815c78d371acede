"""Limits of the machine: warnings before a run, and reads of the requested images only."""

import dataclasses
import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import open_loader, preflight
from loaders.backends import ffcv
from loaders.plan import LoaderPlan


def plan_of(beton: Path, **changes: object) -> LoaderPlan:
    return dataclasses.replace(LoaderPlan(beton, 8, 16, order="random"), **changes)


def test_a_plan_that_fits_gives_no_warning(betons):
    assert preflight.warnings(plan_of(betons["raw"])) == []


@pytest.mark.parametrize(
    ("changes", "measured", "message"),
    [
        ({"batch_size": 2**20, "resolution": 224}, {}, "Lower batch_size or batches_ahead"),
        ({"num_threads": 4096}, {}, "4096 threads for"),
        ({}, {"free_memory_bytes": 1000}, "Use order: quasi_random"),
        ({"world_size": 2}, {"shared_memory_bytes": 64_000_000}, "--shm-size"),
    ],
)
def test_each_shortage_has_its_sentence(betons, monkeypatch, changes, measured, message):
    for function, value in measured.items():
        monkeypatch.setattr(preflight, function, lambda value=value: value)
    assert message in " ".join(preflight.warnings(plan_of(betons["raw"], **changes)))


def test_one_process_needs_no_shared_memory(betons, monkeypatch):
    monkeypatch.setattr(preflight, "shared_memory_bytes", lambda: 0)
    assert preflight.warnings(plan_of(betons["raw"])) == []


def test_a_container_may_have_less_than_the_machine(monkeypatch):
    machine = preflight.free_memory_bytes()
    monkeypatch.setattr(preflight, "_container_memory", lambda: iter([(2**62, 0), (3000, 1000)]))
    assert preflight.free_memory_bytes() == 2000 < machine
    monkeypatch.setattr(preflight, "_container_memory", lambda: iter([(1000, 3000)]))
    assert preflight.free_memory_bytes() == 0


@pytest.mark.parametrize("order", ["random", "quasi_random", "sequential"])
def test_a_file_larger_than_memory_gives_the_same_batches(betons, monkeypatch, order):
    plan = plan_of(betons["mixed"], order=order, augment="random_resized_crop", num_threads=2)
    with open_loader(plan) as loader:
        assert loader._batch_decoder._map is None
        expected = [images.clone() for images, _ in loader.epoch(0)]
    monkeypatch.setattr(ffcv, "free_memory_bytes", lambda: 1000)
    with open_loader(plan) as loader:
        assert (loader._batch_decoder._map is not None) == (order == "random")
        found = [images.clone() for images, _ in loader.epoch(0)]
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))


@pytest.mark.parametrize("order", ["random", "quasi_random", "sequential"])
def test_a_small_view_of_a_file_larger_than_memory_is_read_without_read_ahead(
    betons, monkeypatch, order
):
    """With read-ahead, a view of a tenth of a file reads 9.9 times its bytes (quasi_random)."""
    monkeypatch.setattr(ffcv, "free_memory_bytes", lambda: 1000)
    with open_loader(plan_of(betons["raw"], order=order, indices=range(0, 36, 4))) as loader:
        assert loader._batch_decoder._map is not None


class RecordingMap:
    """Stand-in for a map that records the requested ranges."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def madvise(self, advice: int, begin: int, length: int) -> None:
        assert advice == mmap.MADV_WILLNEED and begin % mmap.PAGESIZE == 0
        self.spans.append((begin, begin + length))


def test_images_are_prefetched_one_batch_ahead(betons, monkeypatch):
    monkeypatch.setattr(ffcv, "free_memory_bytes", lambda: 1000)
    with open_loader(plan_of(betons["raw"])) as loader:
        read_ahead, decoder, waiting = RecordingMap(), loader._batch_decoder, []
        decoder._map, decode = read_ahead, decoder.decode

        def noting(positions, *rest):
            waiting.append((len(read_ahead.spans), positions))
            return decode(positions, *rest)

        monkeypatch.setattr(decoder, "decode", noting)
        order = loader.samples.order(loader.plan, 0)
        assert len(list(loader.epoch(0))) == 5
    assert [count for count, _ in waiting] == [16, 24, 32, 36, 36]
    assert np.concatenate([positions for _, positions in waiting]).tolist() == order.tolist()
    for (begin, end), position in zip(read_ahead.spans, order, strict=True):
        offset, size = loader.samples.offsets[position], loader.samples.sizes[position]
        assert begin <= offset < begin + mmap.PAGESIZE and end == offset + size
