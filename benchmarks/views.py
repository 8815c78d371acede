"""Images a second out of a tenth of a beton, drawn at random, against the whole of it: from memory, and from the disk.

    python -m benchmarks.views '{"corpus": ..., "scratch": ...}' ROUNDS

Prints one object of JSON. The beton holds the corpus NUM_COPIES times, under other names: a tenth of it is then some batches.
`disk` stands for a file larger than memory: before each round its pages are put out of memory (posix_fadvise), the loader is
told that no memory is free, so that it reads as it then would, and how much of the file was in memory all the same is recorded
(mincore). The disk's own cache and, in a virtual machine, its host's are beyond reach.
"""

import ctypes
import json
import mmap
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.betons import beton, copies
from benchmarks.contender import Work
from loaders import open_loader
from loaders.backends import ffcv
from loaders.plan import LoaderPlan

NUM_COPIES = 4
SHARE = 0.1
CASES = (("memory", "random"), ("disk", "random"), ("disk", "quasi_random"))


def measure(work: Work, num_rounds: int) -> dict[str, Any]:
    """For each case the rates of whole and tenth, in turns, and the median of their ratio."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: work.num_threads])
    file = beton(copies(work, NUM_COPIES), "restart")
    plan = LoaderPlan(
        file,
        work.batch_size,
        work.resolution,
        augment="random_resized_crop",
        horizontal_flip=True,
        crop_scale=work.crop_scale,
        num_threads=work.num_threads,
    )
    with open_loader(plan) as loader:
        num_samples = len(loader.samples)
    tenth = np.random.default_rng(0).permutation(num_samples)[: int(SHARE * num_samples)]
    views = {"whole": plan, "tenth": replace(plan, indices=np.sort(tenth))}
    cases = []
    for place, order in CASES:
        rounds = [
            {
                name: one_round(replace(view, order=order, seed=number), place == "disk")
                for name, view in views.items()
            }
            for number in range(num_rounds)
        ]
        cases.append(
            {
                "from": place,
                "order": order,
                "rounds": rounds,
                "ratio": statistics.median(
                    one["tenth"]["img_per_s"] / one["whole"]["img_per_s"] for one in rounds
                ),
            }
            | {
                name: {
                    key: statistics.median(one[name][key] for one in rounds)
                    for key in rounds[0][name]
                }
                for name in views
            }
        )
    return {"num_samples": num_samples, "bytes": file.stat().st_size, "cases": cases}


def one_round(plan: LoaderPlan, from_disk: bool) -> dict[str, float]:
    """An epoch of a loader of its own."""
    real = ffcv.free_memory_bytes
    if from_disk:
        put_out_of_memory(plan.beton)
        ffcv.free_memory_bytes = lambda: 0
    else:
        plan.beton.read_bytes()
    try:
        in_memory = share_in_memory(plan.beton)
        with open_loader(plan) as loader:
            read, started = bytes_read(), time.perf_counter()
            num_images = sum(len(images) for images, _ in loader.epoch(0))
            wall_s = time.perf_counter() - started
            read = bytes_read() - read
            wanted = int(loader.samples.sizes.sum())
    finally:
        ffcv.free_memory_bytes = real
    return {
        "img_per_s": num_images / wall_s,
        "in_memory_before": in_memory,
        "bytes_read_per_byte_wanted": read / wanted,
    }


def put_out_of_memory(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not yet on the disk stays
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def share_in_memory(path: Path) -> float:
    """Of the file's pages."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        content = np.frombuffer(mapped, np.uint8)
        pages = np.zeros(-(-len(content) // mmap.PAGESIZE), np.uint8)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(content.ctypes.data),
            ctypes.c_size_t(len(content)),
            ctypes.c_void_p(pages.ctypes.data),
        )
        del content  # else the map cannot be closed
    assert not failed, os.strerror(ctypes.get_errno())
    return float((pages & 1).mean())


def bytes_read() -> int:
    """By this process, from disks."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


if __name__ == "__main__":
    print(json.dumps(measure(Work(**json.loads(sys.argv[1])), int(sys.argv[2]))))
