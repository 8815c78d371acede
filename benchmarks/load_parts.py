"""Measure where this project's loader spends its time, for `harness bench load --parts`.

    python -m benchmarks.load_parts '{"corpus": ...}'

Prints JSON with three measurements:

* `parts`: the CPU time of each part of the C kernel, for each storage form and instruction set;
* `views`: the CPU time of one to three crops of an image;
* `gil_ms`: the time per batch for which Python holds the GIL.
"""

import itertools
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.betons import beton
from benchmarks.contender import Work
from loaders import kernel_c
from loaders.backends.ffcv import CROPS_AT_ONCE
from loaders.crops import Crops, choose_crops
from loaders.plan import LoaderPlan
from writers.beton.store import open_beton

# Storage form, a key of `benchmarks.betons.ENCODINGS` -> label in the output.
FORMS = {"dct": "dct", "restart": "indexed JPEG", "raw400": "raw at 400 px"}
MOST_IMAGES, NUM_ROUNDS, NUM_THREADS = 512, 7, 16
MOST_VIEWS, NUM_VIEWED, NUM_VIEW_ROUNDS = 3, 64, 60  # crops per image, images, rounds
# The entry of `instruction_sets()` that decodes with libjpeg-turbo. Its parts cannot be timed.
WHOLE = "libjpeg-turbo"


class Images:
    """Images of a `.beton` file, the crops of each image, and memory for the output."""

    def __init__(self, path: Path, work: Work, crops_per_image: int = 1) -> None:
        """Open the file and draw the crops of epoch 0."""
        opened = open_beton(path)
        rows, self.n = opened.rows[:MOST_IMAGES], min(MOST_IMAGES, opened.manifest.num_samples)
        self.plan = LoaderPlan(
            path,
            work.batch_size,
            work.resolution,
            augment=work.augment,
            crop_scale=work.crop_scale,
            horizontal_flip=work.augment != "center_crop",
            crops_per_image=crops_per_image,
        )
        self.ids, self.sides = opened.ids[: self.n], (rows["width"], rows["height"])
        self.crops = self.draw()
        # Load the whole file: a kernel may also read bytes after the last image.
        file = np.fromfile(path, np.uint8)
        sizes = opened.sizes[: self.n]
        self.images = kernel_c.stored_images(file, rows["offset"], sizes, rows["mode"], *self.sides)
        self.num_crops, side = crops_per_image, work.resolution
        self.output = np.zeros((self.n, crops_per_image, side, side, 3), np.uint8)

    def draw(self) -> Crops:
        """Draw the crops."""
        widths, heights = (side.astype(np.int64) for side in self.sides)
        return choose_crops(self.plan, 0, self.ids, widths, heights)

    def parts_ms(self, instruction_set: str) -> dict[str, float]:
        """Return name of a part of the kernel -> its CPU time per crop, in ms."""
        times = kernel_c.time_parts(
            self.images,
            self.crops.boxes,
            self.crops.flips,
            self.output[:, 0],
            instruction_set,
        )
        return {name: 1e3 * seconds / self.n for name, seconds in asdict(times).items()}

    def whole_ms(self, pool: kernel_c.Pool, n: int | None = None) -> float:
        """Return the CPU time per image of all its crops, in ms, in a pool of one thread.

        Args:
            pool: pool that makes the crops.
            n: number of images; None means all.
        """
        n = min(n or self.n, self.n)
        begin = time.thread_time()
        self.batch(pool, n)
        return 1e3 * (time.thread_time() - begin) / n

    def batch(self, pool: kernel_c.Pool, n: int) -> None:
        """Make the crops of the first n images."""
        pool.make_batch(
            self.images,
            np.arange(n),
            self.crops.boxes[: n * self.num_crops],
            self.crops.flips[: n * self.num_crops],
            self.output[:n],
            np.zeros(n, np.uint8),
            np.empty((0, 256), np.float16),
        )


def measure_parts(work: Work) -> list[dict[str, Any]]:
    """Return the median CPU time per crop in ms: a row for each form and instruction set."""
    images = {form: Images(beton(work, form), work) for form in FORMS}
    names = [name for name in kernel_c.instruction_sets() if name != WHOLE]
    rounds: dict[tuple[str, str], list[dict[str, float]]] = {}
    pools = {name: kernel_c.Pool(1, name) for name in names}
    for _ in range(NUM_ROUNDS):
        for form, opened in images.items():
            for name in names:
                whole = {"whole": opened.whole_ms(pools[name])}
                rounds.setdefault((form, name), []).append(opened.parts_ms(name) | whole)
    return [
        {"form": FORMS[form], "instructions": name}
        | {key: statistics.median(row[key] for row in measured) for key in measured[0]}
        for (form, name), measured in rounds.items()
    ]


def measure_views(work: Work) -> list[dict[str, Any]]:
    """Return the CPU time in ms for one crop (view) of an image, and for each further one.

    Each value is the smallest of all rounds, because other work on the machine only adds time.
    """
    rows = []
    for form in ("dct", "restart"):
        path = beton(work, form)
        images = [Images(path, work, count) for count in range(1, MOST_VIEWS + 1)]
        for name in kernel_c.instruction_sets():
            if name in (WHOLE, "scalar"):
                continue
            pool, least = kernel_c.Pool(1, name), [float("inf")] * MOST_VIEWS
            for _ in range(NUM_VIEW_ROUNDS):
                for index, opened in enumerate(images):
                    least[index] = min(least[index], opened.whole_ms(pool, NUM_VIEWED))
            more = [after - before for before, after in itertools.pairwise(least)]
            rows.append({"form": FORMS[form], "instructions": name, "views": [least[0], *more]})
    return rows


def measure_gil_ms(work: Work) -> dict[str, float]:
    """Return the time per batch in which Python code holds the GIL, in ms.

    C functions run without the GIL, so they are replaced by functions that do nothing. As in the
    loader, the crops of several batches are drawn together.
    """
    opened = Images(beton(work, "dct"), work)
    pool, n = kernel_c.Pool(NUM_THREADS), min(work.batch_size, opened.n)
    opened.batch(pool, n)
    many = np.resize(np.arange(opened.n), CROPS_AT_ONCE)
    columns = [opened.ids[many], *(side[many].astype(np.int64) for side in opened.sides)]
    calls, draws = [], []
    kernel, pool._make_batch = pool._make_batch, lambda *arguments: 1
    chooser, kernel_c.crop_chooser = kernel_c.crop_chooser, lambda: lambda *arguments: None
    for _ in range(200):
        begin = time.thread_time()
        opened.batch(pool, n)
        calls.append(time.thread_time() - begin)
        begin = time.thread_time()
        choose_crops(opened.plan, 0, *columns)
        draws.append((time.thread_time() - begin) * n / CROPS_AT_ONCE)
    pool._make_batch, kernel_c.crop_chooser = kernel, chooser
    return {"call": 1e3 * statistics.median(calls), "crops": 1e3 * statistics.median(draws)}


if __name__ == "__main__":
    described = Work(**json.loads(sys.argv[1]))
    measured = {
        "parts": measure_parts(described),
        "views": measure_views(described),
        "gil_ms": measure_gil_ms(described),
    }
    json.dump(measured, sys.stdout)
