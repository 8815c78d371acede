"""Loaders on a fake CUDA device: batches equal the CPU's, and no buffer is reused too early."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import open_loader
from loaders.augmentations import Augmentations, RandomErasing
from loaders.epoch import STREAM_PRIORITY
from loaders.pinned import to_device
from loaders.plan import LoaderPlan
from tests.helpers.tiny_betons import photo, write_beton
from tests.rehearsal import product, streams
from tests.rehearsal.cuda import no_sync
from tests.rehearsal.streams import RehearsalError

SIZES = [(60, 40), (40, 60), (33, 47), (128, 96), (1, 50), (20, 20)]
EPOCHS = ((0, 32), (1, 32), (2, 16))  # number, resolution


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images of odd sizes, every second one as JPEG."""
    images = [photo(*SIZES[number % len(SIZES)], seed=number) for number in range(30)]
    raw = [number % 2 == 0 for number in range(30)]
    path = tmp_path_factory.mktemp("beton") / "mixed.beton"
    return write_beton(path, images, [number % 4 for number in range(30)], raw=raw)


@pytest.fixture
def plan(beton: Path) -> LoaderPlan:
    return LoaderPlan(
        beton, 4, 32, augment="random_resized_crop", horizontal_flip=True, order="random"
    )


def refuse(*_: object) -> None:
    raise streams.CudaError("CUDA error: out of memory")


def read(plan: LoaderPlan) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with open_loader(plan) as loader:
        return [
            (images.clone(), labels.clone())
            for epoch, resolution in EPOCHS
            for images, labels in loader.epoch(epoch, resolution)
        ]


@pytest.mark.parametrize("backend", ["ffcv", "resident", "auto"])
def test_batches_are_those_of_the_cpu(plan, backend, request):
    expected = read(plan)
    request.getfixturevalue("faked")
    found = read(replace(plan, device="cuda:0", backend=backend))
    assert len(found) == len(expected) == 24
    for (images, labels), (twin, twin_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, twin) and torch.equal(labels, twin_labels)
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_a_loader_copies_out_of_pinned_memory(faked, plan, monkeypatch):
    """A copy from other memory would wait for the work of the GPU."""
    copies = []
    submit = streams.submit_copy
    monkeypatch.setattr(streams, "submit_copy", lambda *pair: (copies.append(pair), submit(*pair)))
    read(replace(plan, device="cuda:0"))
    assert len(copies) == 2 * 24 and all(streams.is_pinned(source) for _, source in copies)


def test_a_resident_loader_does_not_wait_for_the_gpu(faked, plan):
    with open_loader(replace(plan, device="cuda:0", backend="resident")) as loader, no_sync():
        assert sum(len(labels) for _, labels in loader.epoch(0)) == 30


def test_an_upload_does_not_wait_for_the_gpu(faked):
    values = np.arange(6.0).reshape(2, 3).T  # not contiguous
    with no_sync():
        uploaded = to_device(values, torch.device("cuda"))
    assert uploaded.tolist() == values.tolist()
    with pytest.raises(streams.CudaError, match="not pinned"), no_sync():
        torch.from_numpy(values).to("cuda", non_blocking=True)


AUGMENTATIONS = Augmentations.model_validate(
    {
        "randaugment": {"ops": "timm", "probability": 1.0},
        "color_jitter": {"brightness": 0.4, "hue": 0.1},
        "lighting": 0.1,
        "mixup": 0.2,
        "cutmix": 1.0,
    }
)


@pytest.mark.parametrize("fill", ["mean", "color", "noise"])
def test_augmentations_do_not_wait_for_the_gpu(plan, fill, request):
    """Operations that wait are found; copies are not, because fake tensors report a CPU."""
    erasing = RandomErasing(probability=1.0, fill=fill)
    augmented = replace(plan, augmentations=AUGMENTATIONS.model_copy(update={"erasing": erasing}))
    with open_loader(augmented) as loader:
        expected = [(images.clone(), labels.clone()) for images, labels in loader.epoch(0)]
    request.getfixturevalue("faked")
    on_gpu = replace(augmented, device="cuda:0", backend="resident")
    with open_loader(on_gpu) as loader, no_sync():
        found = [(images.clone(), labels.clone()) for images, labels in loader.epoch(0)]
    for (images, labels), (twin, twin_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, twin) and torch.equal(labels, twin_labels)


def test_an_epoch_that_is_left_early_leaves_the_slots_in_order(faked, plan):
    with open_loader(replace(plan, device="cuda:0")) as loader:
        for epoch in range(6):
            for number, _ in enumerate(loader.epoch(epoch)):
                if number == epoch:
                    break


def test_a_batch_is_valid_until_the_next_epoch_is_asked_for_one(faked, plan, monkeypatch):
    """Its slot is filled after all work on it, also after work that the new epoch did not see."""
    submit, main, copied_after = streams.submit_copy, streams.current_queue(), []

    def submit_and_note(target: torch.Tensor, source: torch.Tensor) -> None:
        if target.data_ptr() == images.data_ptr():
            copied_after.append(streams.current_queue().waited[main])
        submit(target, source)

    with open_loader(replace(plan, device="cuda:0")) as loader:
        images, _ = next(loader.epoch(0))
        monkeypatch.setattr(streams, "submit_copy", submit_and_note)
        with loader.epoch(1) as epoch:
            torch.cuda._sleep(1)  # work on the batch
            last_use = main.submitted
            assert len(list(epoch)) == 8
    assert copied_after and min(copied_after) >= last_use


def test_a_backward_pass_may_follow_copies_to_the_other_slots(faked, plan, monkeypatch):
    """Autograd refuses a saved tensor that was changed since."""
    submitted, submit = threading.Semaphore(0), streams.submit_copy

    def submit_and_count(target: torch.Tensor, source: torch.Tensor) -> None:
        submit(target, source)
        submitted.release()

    monkeypatch.setattr(streams, "submit_copy", submit_and_count)
    weight = torch.ones(3, 4, requires_grad=True)
    with open_loader(replace(plan, device="cuda:0")) as loader, loader.epoch(0) as epoch:
        images, labels = next(epoch)
        logits = images.float().mean(dim=(2, 3)) @ weight
        loss = torch.nn.functional.cross_entropy(logits, labels)
        for _ in range(2 * (1 + plan.batches_ahead)):  # images and labels of each slot
            assert submitted.acquire(timeout=240)
        torch.cuda.synchronize()
        loss.backward()
    assert weight.grad is not None


def test_an_ended_epoch_may_be_collected_during_a_capture(faked, plan):
    with open_loader(replace(plan, device="cuda:0")) as loader:
        epoch = loader.epoch(0)
        assert len(list(epoch)) == 8
        with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.Stream()):
            epoch._thread.__del__()


def test_captures_and_loaders_use_different_streams(faked, plan):
    """Otherwise a loader's copy could become part of a graph.

    torch.compile captures on a stream of the default priority. A loader takes new streams in each
    epoch, and a pool has 32.
    """
    captures = {torch.cuda.Stream() for _ in range(streams.NUM_POOLED)}
    used = []
    with open_loader(replace(plan, device="cuda:0")) as loader:
        for number in range(streams.NUM_POOLED):
            with loader.epoch(number) as epoch:
                used += epoch._thread.cuda_streams
    assert captures.isdisjoint(used)

    def attack(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert torch.cuda.current_stream() not in used
        return images.float()

    product.captured(attack, torch.Generator("cuda"))(*product.make_batch("cuda:0"))


# Closing the broken loader also raises, here or when it is collected later.
BROKEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@BROKEN
def test_a_loader_that_refills_a_slot_before_its_copy_ended_is_found(faked, plan, monkeypatch):
    faked.expects_faults = True
    monkeypatch.setattr(streams.Event, "synchronize", lambda event: None)
    with pytest.raises(RehearsalError, match="Pinned memory was written"):
        read(replace(plan, device="cuda:0"))
    assert faked.faults


@BROKEN
def test_a_loader_that_overwrites_a_batch_in_use_is_found(faked, plan, monkeypatch):
    """The loader's streams no longer wait for the consumer's."""
    faked.expects_faults = True
    wait, main = streams.Event.wait, threading.current_thread()

    def wait_in_main_thread(event: streams.Event, stream: streams.Stream | None = None) -> None:
        if threading.current_thread() is main:
            wait(event, stream)

    monkeypatch.setattr(streams.Event, "wait", wait_in_main_thread)
    with pytest.raises(RehearsalError, match="another stream may still read"):
        read(replace(plan, device="cuda:0"))
    assert faked.faults


def test_a_loader_for_the_cpu_takes_no_stream_and_no_pinned_memory(faked, plan, monkeypatch):
    first = torch.cuda.Stream(priority=STREAM_PRIORITY)
    monkeypatch.setattr(streams, "pinned_empty", refuse)
    read(plan)
    following = torch.cuda.Stream(priority=STREAM_PRIORITY)
    assert following._number == first._number + 1


@pytest.mark.parametrize("backend", ["ffcv", "resident"])
def test_memory_that_cannot_be_page_locked_is_reported_and_replaced(
    faked, plan, backend, monkeypatch
):
    expected = read(plan)
    monkeypatch.setattr(streams, "pinned_empty", refuse)
    with pytest.warns(RuntimeWarning, match="Page-locked memory is not available.*out of memory"):
        found = read(replace(plan, device="cuda:0", backend=backend))
    for (images, labels), (twin, twin_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, twin) and torch.equal(labels, twin_labels)
