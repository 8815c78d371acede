"""Loaders neither hang nor leak: damaged images, early exits, many loaders, threads, forks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import pytest
import torch

from loaders import kernel, kernel_c, open_loader
from loaders.plan import LoaderPlan
from tests.helpers import ROOT
from tests.helpers.tiny_betons import jpeg, photo, write_beton
from writers.errors import UserError


@pytest.fixture
def new_threads() -> Callable[[], list[threading.Thread]]:
    """Return a function that lists the test's threads that are alive after a grace period."""
    before = set(threading.enumerate())

    def new_threads() -> list[threading.Thread]:
        for thread in set(threading.enumerate()) - before:
            thread.join(240)
        return [thread for thread in threading.enumerate() if thread not in before]

    return new_threads


def plan_of(beton: Path, **changes: object) -> LoaderPlan:
    settings = {
        "batch_size": 4,
        "resolution": 32,
        "augment": "random_resized_crop",
        "num_threads": 2,
    }
    return LoaderPlan(beton, **(settings | changes))


@pytest.mark.parametrize(
    ("backend", "spoil"),
    # Pillow accepts an end-of-image marker that comes too early, so `reference` has no such case.
    [
        ("ffcv", "zeros"),
        ("ffcv", "cut short"),
        ("ffcv", "ends inside"),
        ("reference", "zeros"),
        ("reference", "cut short"),
    ],
)
def test_a_corrupt_jpeg_is_an_error_that_names_it(tmp_path, backend, spoil, new_threads):
    images = [photo(90, 70, seed=number) for number in range(10)]
    blobs = [jpeg(image) for image in images]
    size = len(blobs[6])
    blobs[6] = {
        "zeros": bytes(size),
        "cut short": blobs[6][: size // 2],
        "ends inside": blobs[6][: size // 2] + b"\xff\xd9" + bytes(size - size // 2 - 2),
    }[spoil]
    beton = write_beton(tmp_path / "spoilt.beton", images, [0] * 10, raw=[False] * 10, blobs=blobs)
    with open_loader(plan_of(beton, backend=backend)) as loader:
        batches = loader.epoch(0)
        next(batches)
        with pytest.raises(UserError, match=r"Sample 6 of .*spoilt\.beton"):
            next(batches)
        with pytest.raises(StopIteration):
            next(batches)
    assert not new_threads()


def test_padding_before_the_end_marker_is_no_error(tmp_path):
    image = photo(40, 30, seed=0)
    padded = jpeg(image)[:-2] + bytes(40) + jpeg(image)[-2:]
    beton = write_beton(
        tmp_path / "two.beton", [image] * 2, [0, 0], raw=[False] * 2, blobs=[jpeg(image), padded]
    )
    with open_loader(plan_of(beton, augment="center_crop")) as loader, loader.epoch(0) as batches:
        (clean, same), _ = next(batches)
    assert torch.equal(clean, same)


def test_a_zeroed_sector_is_an_error(tmp_path):
    """libjpeg-turbo's first warning is the harmless one about skipped bytes."""
    image = photo(320, 240, seed=1)
    blob = jpeg(image, restart_marker_blocks=7)
    spoilt = blob[: len(blob) // 2] + bytes(512) + blob[len(blob) // 2 + 512 :]
    beton = write_beton(
        tmp_path / "two.beton", [image] * 2, [0, 0], raw=[False] * 2, blobs=[blob, spoilt]
    )
    with (
        open_loader(plan_of(beton)) as loader,
        pytest.raises(UserError, match=r"Sample 1 of .* bytes before marker 0xd[0-7]"),
    ):
        next(loader.epoch(0))


def test_an_exception_in_the_thread_reaches_the_consumer(betons, monkeypatch):
    with open_loader(plan_of(betons["jpeg"])) as loader:
        monkeypatch.setattr(loader._batch_decoder, "decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(loader.epoch(0))
        monkeypatch.undo()
        assert len(list(loader.epoch(0))) == 9  # and the loader still works


@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_exception_in_a_decoding_thread_names_the_sample(betons, monkeypatch, num_threads):
    monkeypatch.setattr(kernel, "best_kernel", lambda: "numba")
    with open_loader(plan_of(betons["jpeg"], num_threads=num_threads, batch_size=12)) as loader:
        real, culprit = loader._batch_decoder._decode_images, loader.samples.offsets[17]

        def without_memory(file, offsets, *rest, **options):
            if culprit in offsets:
                raise MemoryError
            real(file, offsets, *rest, **options)

        monkeypatch.setattr(loader._batch_decoder, "_decode_images", without_memory)
        with pytest.raises(MemoryError) as raised:
            list(loader.epoch(0))
    assert raised.value.__notes__[0] == f"At sample 17 of {betons['jpeg']}."
    assert "12 images, of" in raised.value.__notes__[1]


@pytest.mark.skipif(kernel_c.library() is None, reason="the C kernel was not built")
def test_an_image_that_the_c_kernel_has_no_memory_for_is_named(betons, monkeypatch):
    with open_loader(plan_of(betons["jpeg"], batch_size=12)) as loader:
        pool, culprit = loader._batch_decoder._pool, 17
        real = pool.make_batch

        def make_batch(images, positions, boxes, flips, output, has_error, *rest):
            real(images, positions, boxes, flips, output, has_error, *rest)
            has_error[loader.samples.indices[positions] == culprit] = kernel_c.OUT_OF_MEMORY

        monkeypatch.setattr(pool, "make_batch", make_batch)
        with pytest.raises(MemoryError, match="no memory to decode an image of ") as raised:
            list(loader.epoch(0))
    assert raised.value.__notes__[0] == f"At sample 17 of {betons['jpeg']}."


def test_ctrl_c_while_waiting_for_a_batch_ends_the_epoch(betons, monkeypatch, new_threads):
    interrupted = threading.Event()

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        interrupted.set()

    with pytest.raises(KeyboardInterrupt), open_loader(plan_of(betons["raw"])) as loader:
        monkeypatch.setattr(
            loader._batch_decoder, "decode", lambda *_: interrupted.wait(240) and {}
        )
        batches = loader.epoch(0)
        threading.Timer(0.2, interrupt).start()
        next(batches)
    assert not new_threads()


MANY = """
import gc, json, os, sys, threading, time
from loaders import open_loader
from loaders.kernel import best_kernel
from loaders.plan import LoaderPlan

def open_and_leave(times):
    for number in range(times):
        plan = LoaderPlan(sys.argv[1], 4, 100, augment="random_resized_crop", num_threads=1 + number % 3)
        loader = open_loader(plan)
        for _ in loader.epoch(number):
            if number % 2:
                break                   # left early
        if number % 4 == 0:
            loader.epoch(number)        # begun and dropped
        elif number % 4 == 1:
            try:
                with loader, loader.epoch(number) as batches:
                    next(batches)
                    raise KeyError
            except KeyError:
                pass
        elif number % 4 == 2:
            loader.close()
    del loader
    gc.collect()

def state(threads=0):
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(200)    # those of a dropped loader end on their own, a moment later
    for _ in range(1000):       # and the system counts them for another moment
        lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
        if int(lines["Threads"]) <= threads:
            break
        time.sleep(0.05)
    files = len(os.listdir("/proc/self/fd"))
    return {"rss_kb": int(lines["VmRSS"].split()[0]), "threads": int(lines["Threads"]), "files": files}

open_and_leave(50)
before = state()
open_and_leave(200)
print(json.dumps([before, state(before["threads"])]))
"""


def test_two_hundred_loaders_leave_no_thread_no_file_and_no_memory(betons):
    ended = subprocess.run(
        [sys.executable, "-c", MANY, betons["mixed"]],
        cwd=ROOT,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},  # glibc's arenas grow with the number of cores
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    before, after = json.loads(ended.stdout)
    assert (after["threads"], after["files"]) == (before["threads"], before["files"])
    # Allocators keep some memory: 2 % are a few MB after 200 loaders.
    assert after["rss_kb"] <= 1.02 * before["rss_kb"]


def leave_by_break(loader):
    for batch in loader.epoch(0):
        return batch


def leave_by_close(loader):
    batches = loader.epoch(0)
    batch = next(batches)
    batches.close()
    return batch


def leave_by_with(loader):
    with loader.epoch(0) as batches:
        return next(batches)


def leave_for_another_epoch(loader):
    batch = next(loader.epoch(0))
    loader.next_epoch = loader.epoch(1)  # its thread fills slots; no batch of it is requested
    return batch


def leave_for_another_epoch_late(loader):
    batches = loader.epoch(0)
    for _ in range(3):
        batch = next(batches)
    loader.next_epoch = loader.epoch(1)
    return batch


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_close,
        leave_by_with,
        leave_for_another_epoch,
        leave_for_another_epoch_late,
    ],
)
def test_a_batch_keeps_its_content_until_the_next_is_requested(betons, leave):
    with open_loader(plan_of(betons["raw"], order="random", augment="center_crop")) as reference:
        expected = [images.clone() for images, _ in reference.epoch(0)]
    for _ in range(40):
        with open_loader(plan_of(betons["raw"], order="random", augment="center_crop")) as loader:
            images, _ = leave(loader)
            time.sleep(0.01)  # for a thread that writes although it should not
            number = 2 if leave is leave_for_another_epoch_late else 0
            assert torch.equal(images, expected[number])


def test_an_epoch_ends_when_the_next_one_starts(betons):
    with open_loader(plan_of(betons["raw"])) as loader:
        old = loader.epoch(0)
        next(old)
        new = loader.epoch(1)
        with pytest.raises(RuntimeError, match="closed"):
            next(old)
        assert len(list(new)) == 9
        with pytest.raises(StopIteration):
            next(new)


def test_an_error_in_the_loop_ends_the_epoch(betons, new_threads):
    with (
        pytest.raises(KeyboardInterrupt),
        open_loader(plan_of(betons["raw"])) as loader,
        loader.epoch(0) as batches,
    ):
        for _ in batches:
            raise KeyboardInterrupt
    assert not new_threads()


def test_no_later_batch_overwrites_a_batch_in_use(betons):
    with open_loader(plan_of(betons["raw"], batches_ahead=1)) as loader:
        expected = [images.clone() for images, _ in loader.epoch(0)]
        with loader.epoch(0) as batches:
            for (images, _), once in zip(batches, expected, strict=True):
                threading.Event().wait(0.02)  # time for the thread to run ahead as far as it may
                assert torch.equal(images, once)


def test_two_loaders_taken_in_turns_and_from_two_threads(betons):
    def clones(beton: str) -> list[torch.Tensor]:
        with open_loader(plan_of(betons[beton])) as loader:
            return [images.clone() for images, _ in loader.epoch(0)]

    expected = {name: clones(name) for name in ("jpeg", "raw")}
    with open_loader(plan_of(betons["jpeg"])) as a, open_loader(plan_of(betons["raw"])) as b:
        for (x, _), (y, _), x_once, y_once in zip_longest(
            a.epoch(0), b.epoch(0), *expected.values()
        ):
            assert torch.equal(x, x_once) and torch.equal(y, y_once)

    results: dict[str, list[torch.Tensor]] = {}
    threads = [
        threading.Thread(target=lambda name=name: results.update({name: clones(name)}))
        for name in expected
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, images in expected.items():
        assert all(map(torch.equal, results[name], images))


def test_a_closed_loader_gives_no_batches(betons):
    loader = open_loader(plan_of(betons["jpeg"], num_threads=1))
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="This loader is closed"):
        next(loader.epoch(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_slots_are_not_filled_again_before_a_slow_gpu_has_used_them(betons):
    with open_loader(plan_of(betons["mixed"], batch_size=2)) as loader:
        expected = [images.clone() for images, _ in loader.epoch(0)]
    with open_loader(plan_of(betons["mixed"], batch_size=2, device="cuda")) as loader:
        for _ in range(3):  # slots are kept from one epoch to the next
            clones = []
            for images, _ in loader.epoch(0):
                torch.cuda._sleep(50_000_000)  # the GPU is slow; the clone waits in its queue
                clones.append(images.clone())
            assert all(torch.equal(a.cpu(), b) for a, b in zip(clones, expected, strict=True))


class _Numbers(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_works_together_with_forked_dataloader_workers(betons):
    workers = torch.utils.data.DataLoader(
        _Numbers(), batch_size=4, num_workers=2, multiprocessing_context="fork"
    )
    with open_loader(plan_of(betons["jpeg"])) as loader, loader.epoch(0) as batches:
        next(batches)
        assert torch.cat(list(workers)).tolist() == list(range(16))  # forked while our threads run
        assert len(list(batches)) == 8


def test_works_together_with_spawned_dataloader_workers(betons):
    workers = torch.utils.data.DataLoader(
        _Numbers(), batch_size=4, num_workers=1, multiprocessing_context="spawn"
    )
    with open_loader(plan_of(betons["jpeg"])) as loader, loader.epoch(0) as batches:
        next(batches)
        assert torch.cat(list(workers)).tolist() == list(range(16))
        assert len(list(batches)) == 8


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_refuses_inherited_loaders_and_opens_its_own(betons):
    plan = plan_of(betons["jpeg"])
    with open_loader(plan) as loader, loader.epoch(0) as batches:
        expected = next(batches)[0].clone()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for inherited in (lambda: next(batches), lambda: loader.epoch(1)):
                    with pytest.raises(RuntimeError, match="another process"):
                        inherited()
                with open_loader(plan) as own, own.epoch(0) as begun:
                    code = 0 if torch.equal(next(begun)[0], expected) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(list(batches)) == 8  # the parent's epoch continues
