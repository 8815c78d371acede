"""Compare the loader for detection (whole images and boxes) to the loader for classification.

This is `harness bench load --workload whole`.

    python -m benchmarks.load_whole '{"corpus": ...}'    # JSON of `benchmarks.contender.Work`

Prints JSON: for each storage form, the CPU time per decoded pixel of both loaders in each round.
Both loaders decode whole images; the one for classification also resizes them.
"""

import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.betons import beton
from benchmarks.contender import Work
from loaders import Loader, open_loader
from loaders.crops import choose_crops
from loaders.detection import DetectionLoader, DetectionPlan
from loaders.plan import LoaderPlan
from loaders.reader import open_samples
from writers.beton.boxes import BoxTable

FORMS = {
    "dct": "dct",
    "restart": "indexed JPEG",
    "jpeg": "JPEG without an index",
    "raw400": "raw at 400 px",
}
MOST_IMAGES, NUM_ROUNDS, BATCH_SIZE = 512, 7, 16
MIN_ROUND_S = 0.5  # least CPU seconds of a round; an epoch of raw images takes only 0.04 s
BOXES_PER_IMAGE = 3  # VOC 2007 has 2.5 on average
WHOLE = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (0.1, 10.0),
}  # the crop is the whole image, unless the image is very long


@dataclass(frozen=True)
class Row:
    """CPU time per decoded pixel in each round, in ns."""

    form: str
    classification: list[float]
    detection: list[float]


def measure(work: Work) -> list[Row]:
    """Measure both loaders on each storage form; the loaders take turns in each round."""
    return [
        Row(title, *_take_turns(beton(work, form), work.resolution, work.num_threads))
        for form, title in FORMS.items()
    ]


def _take_turns(path: Path, resolution: int, num_threads: int) -> tuple[list[float], list[float]]:
    number = min(MOST_IMAGES, len(open_samples(LoaderPlan(path, 1, 1))))
    shared = {"order": "random", "horizontal_flip": True, "num_threads": num_threads}
    classify = LoaderPlan(
        path,
        BATCH_SIZE,
        resolution,
        augment="random_resized_crop",
        indices=np.arange(number),
        **WHOLE,
        **shared,
    )
    detect = DetectionPlan(path, BATCH_SIZE, indices=np.arange(number), **shared)
    samples = open_samples(detect.of_images)
    pixels = int((samples.widths * samples.heights).sum())
    classification, detection = [], []
    with (
        open_loader(classify) as images,
        DetectionLoader(detect, samples, _boxes_of(path)) as boxed,
    ):
        epochs = itertools.count()
        _cpu_s(images, boxed, next(epochs))  # warms up
        for _ in range(NUM_ROUNDS):
            spent, cropped, decoded = np.zeros(2), 0, 0
            while spent.sum() < MIN_ROUND_S:
                epoch = next(epochs)
                boxes = choose_crops(
                    classify, epoch, samples.ids, samples.widths, samples.heights
                ).boxes
                spent += _cpu_s(images, boxed, epoch)
                cropped += int((boxes[:, 2] * boxes[:, 3]).sum())
                decoded += pixels
            classification.append(1e9 * spent[0] / cropped)
            detection.append(1e9 * spent[1] / decoded)
    return classification, detection


def _cpu_s(images: Loader, boxed: DetectionLoader, epoch: int) -> list[float]:
    """Return the seconds of CPU time of an epoch of each loader."""
    seconds = []
    for loader in (images, boxed):
        begin = time.process_time()
        for _ in loader.epoch(epoch):
            pass
        seconds.append(time.process_time() - begin)
    return seconds


def _boxes_of(path: Path) -> BoxTable:
    """Make up boxes for a file without boxes: the middle of each image, BOXES_PER_IMAGE times."""
    samples = open_samples(LoaderPlan(path, 1, 1))
    sides = np.stack([samples.widths, samples.heights] * 2, axis=1) * [0.25, 0.25, 0.75, 0.75]
    rows = np.concatenate([sides, np.zeros((len(sides), 2))], axis=1).astype(np.float32)
    starts = BOXES_PER_IMAGE * np.arange(len(sides) + 1)
    return BoxTable(np.repeat(rows, BOXES_PER_IMAGE, axis=0), starts)


if __name__ == "__main__":
    rows = measure(Work(**json.loads(sys.argv[1])))
    json.dump([asdict(row) for row in rows], sys.stdout)
