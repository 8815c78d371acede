"""Where the time of a decoded image goes, and how far each part is from what this machine could do at the least.

    python -m benchmarks.time_split '{"corpus": ..., "scratch": ...}' ROUNDS

Prints one object of JSON. One thread, CPU time, random-resized crops of JPEGs with a restart index, through the C kernel.
Huffman decoding and the resize are run by themselves; the inverse transform, with upsampling and colours, is what is left.

The limits are measured in the same rounds. Huffman codes are read one after the other, each by a look-up whose place hangs on
the one before: they take at least as long as as many loads from the first cache that hang on each other (two segments side by
side could halve that). The other parts read and write arrays: they take at least as long as copying as many bytes, within the
cache or, for what comes from the file and goes to the batch, through memory.
"""

import ctypes
import json
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numba import njit

from benchmarks.betons import beton
from benchmarks.contender import Work
from loaders import open_loader
from loaders.augment import choose_crops
from loaders.kernel_c import library, open_kernel
from loaders.plan import LoaderPlan
from loaders.reader import open_samples
from writers.beton.encoding import RAW

NUM_IMAGES = 512
COPIED_BYTES = 2**18  # in the second cache, like the pixels of a crop
CHAIN = 1_000_000  # loads
COEFFICIENT_BYTES = 2
CHROMA = 0.5  # of 4:2:0: samples of colour for each of brightness
LEVELS = np.empty((0, 256), np.float16)


def measure(work: Work, num_rounds: int) -> dict[str, Any]:
    """Milliseconds an image, medians over rounds: of each part, and of the least that the machine takes for it."""
    if library() is None:
        return {"absent": "the C kernel was not built"}
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    plan = LoaderPlan(
        beton(work, "restart"),
        256,
        work.resolution,
        augment="random_resized_crop",
        horizontal_flip=True,
        crop_scale=work.crop_scale,
    )
    positions = np.arange(min(NUM_IMAGES, len(open_samples(plan))))
    plan = replace(plan, indices=positions)
    samples = open_samples(plan)
    crops = choose_crops(plan, 0, samples.ids, samples.widths, samples.heights)
    with samples.path.open("rb") as opened:
        file = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    offsets, sizes, widths, heights = (
        samples.offsets,
        samples.sizes,
        samples.widths,
        samples.heights,
    )
    kernel = open_kernel()
    batch = np.zeros((len(positions), work.resolution, work.resolution, 3), np.uint8)
    complaints = np.zeros(len(positions), bool)
    cached = np.zeros(
        3 * int((widths * heights).max()), np.uint8
    )  # one image's pixels, as if just decoded
    nowhere, raw = np.zeros_like(offsets), np.full(len(positions), RAW, np.uint8)
    counts = count_codes(file, offsets, sizes, widths, heights, crops.boxes)
    codes, coded_bytes = counts / len(positions)
    box_pixels = float(crops.boxes[:, 2:].prod(axis=1).mean())
    batch_bytes = batch[0].nbytes
    places = np.random.default_rng(0).permutation(1024)
    follow(places, 1)  # compiles
    source, target = (np.ones(COPIED_BYTES, np.uint8) for _ in range(2))
    batches = loaded(plan, num_rounds)

    runs: dict[str, Callable[[], float]] = {
        "loader": lambda: next(batches),
        "whole": per_image(
            lambda: kernel(
                file,
                offsets,
                sizes,
                samples.modes,
                widths,
                heights,
                crops.boxes,
                crops.flips,
                batch,
                complaints,
                LEVELS,
            ),
            len(positions),
        ),
        "huffman": per_image(
            lambda: decode_entropy(file, offsets, sizes, widths, heights, crops.boxes),
            len(positions),
        ),
        "resize": per_image(
            lambda: kernel(
                cached,
                nowhere,
                sizes,
                raw,
                widths,
                heights,
                crops.boxes,
                crops.flips,
                batch,
                complaints,
                LEVELS,
            ),
            len(positions),
        ),
        "memory": per_image(
            lambda: touch(file, offsets, sizes, coded_bytes / sizes.mean(), batch), len(positions)
        ),
        "load_ms": per_image(lambda: follow(places, CHAIN), CHAIN),
        "copy_ms": per_image(
            lambda: [np.copyto(target, source) for _ in range(200)], 200 * COPIED_BYTES
        ),
    }
    rounds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(num_rounds):
        for name, run in runs.items():
            rounds[name].append(run())
    assert not complaints.any()
    rounds["transform"] = [
        whole - huffman - resize
        for whole, huffman, resize in zip(
            rounds["whole"], rounds["huffman"], rounds["resize"], strict=True
        )
    ]
    rounds["around"] = [
        loader - whole for loader, whole in zip(rounds["loader"], rounds["whole"], strict=True)
    ]
    ms = {name: statistics.median(values) for name, values in rounds.items()}
    transformed = (
        box_pixels * (COEFFICIENT_BYTES * (1 + CHROMA) + 3) / 2
    )  # a copy reads and writes a byte
    parts = [
        (
            "Huffman",
            "huffman",
            codes * ms["load_ms"],
            "a load from the cache for each code, one after the other",
        ),
        (
            "inverse DCT, upsampling, colours",
            "transform",
            transformed * ms["copy_ms"],
            "copying coefficients in and pixels out, in the cache",
        ),
        (
            "resize and flip",
            "resize",
            (3 * box_pixels + batch_bytes) / 2 * ms["copy_ms"],
            "copying the box in and the crop out, in the cache",
        ),
        ("around the kernel", "around", 0.0, "nothing: order, crops, threads, the queue"),
        (
            "memory, within the above",
            "memory",
            ms["memory"],
            "coded bytes out of the file's pages, the crop to its batch",
        ),
    ]
    return {
        "parts": [
            {"part": part, "ms": ms[name], "limit_ms": limit, "limit": what}
            for part, name, limit, what in parts
        ],
        "ms_per_image": ms["loader"],
        "rounds": rounds,
        "codes_per_image": codes,
        "coded_bytes_per_image": coded_bytes,
        "box_pixels": box_pixels,
    }


def per_image(run: Callable[[], Any], count: int) -> Callable[[], float]:
    """CPU milliseconds for each of `count`."""

    def timed() -> float:
        started = time.process_time()
        run()
        return (time.process_time() - started) * 1000 / count

    return timed


def loaded(plan: LoaderPlan, num_epochs: int) -> Iterator[float]:
    """CPU milliseconds an image of the loader itself, an epoch of the same crops at a time."""
    with open_loader(plan) as loader:
        for _ in loader.epoch(0):
            pass
        for _ in range(num_epochs):
            started = time.process_time()
            for _ in loader.epoch(0):
                pass
            yield (time.process_time() - started) * 1000 / loader.num_samples


def decode_entropy(
    file: np.ndarray, *columns: np.ndarray, counts: np.ndarray | None = None
) -> None:
    opened = library()
    assert opened is not None
    function = opened.harness_decode_entropy
    function.restype = ctypes.c_int64
    arrays = [np.ascontiguousarray(column, np.int64) for column in columns]
    done = function(
        ctypes.c_void_p(file.ctypes.data),
        *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
        ctypes.c_int64(len(arrays[0])),
        ctypes.c_void_p(None if counts is None else counts.ctypes.data),
    )
    assert done == len(arrays[0]), "every image of this beton has an index"


def count_codes(file: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """How many codes lie under the boxes, and their bytes: int64 [2]."""
    counts = np.zeros(2, np.int64)
    decode_entropy(file, *columns, counts=counts)
    return counts


def touch(
    file: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, share: float, batch: np.ndarray
) -> None:
    """Copy a share of each JPEG out of the file, and as many bytes as a crop has to each place of the batch."""
    some = np.empty(int(sizes.max()), np.uint8)
    crop = np.zeros_like(batch[0])
    for row, (offset, size) in enumerate(
        zip(offsets.tolist(), (sizes * share).astype(int).tolist(), strict=True)
    ):
        np.copyto(some[:size], file[offset : offset + size])
        np.copyto(batch[row], crop)


@njit
def follow(table: np.ndarray, steps: int) -> int:
    """So many loads, each of whose place is what the one before has found."""
    place = 0
    for _ in range(steps):
        place = table[place & 1023]
    return place


if __name__ == "__main__":
    print(json.dumps(measure(Work(**json.loads(sys.argv[1])), int(sys.argv[2]))))
