"""CIFAR-10: ten classes of 32 x 32 images; reads cifar-10-python.tar.gz, packed or unpacked.

Images are stored as raw pixels. Val is drawn from train by seed.
"""

from pathlib import Path

import numpy as np

from writers.dataset import DatasetSpec, Download
from writers.formats.arrays import ArrayFiles, array_examples
from writers.formats.cifar import classes_of, images_of, read_batches
from writers.formats.split_lists import class_folders
from writers.source import Source, SplitSettings, carve

SPEC = DatasetSpec(
    name="cifar10",
    title="CIFAR-10",
    metric="top1",
    num_classes=10,
    protocols=("salman", "kornblith"),
    default_protocol="salman",
    split_sizes={"train": 50_000, "test": 10_000},
    license="not stated by its authors",
    citation="Krizhevsky 2009, Learning multiple layers of features from tiny images",
    where=(
        "https://www.cs.toronto.edu/~kriz/cifar.html: cifar-10-python.tar.gz, as it is or unpacked"
    ),
    downloads=(
        Download(
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
        ),
    ),
)

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    batches = read_batches(path, "cifar-10-batches-py", "cifar-10-python.tar.gz", NAMES)
    if batches is None:
        return class_folders(path, settings, SPEC, "cifar-10-batches-py")
    classes = classes_of(batches[-1], "label_names", NAMES[-1])
    parts = [
        images_of(batch, "labels", len(classes), name)
        for batch, name in zip(batches[:-1], NAMES, strict=False)
    ]
    train = np.concatenate([images for images, _ in parts[:-1]])
    labels = {"train": [label for _, part in parts[:-1] for label in part], "test": parts[-1][1]}
    images = {"train": train, "test": parts[-1][0]}
    files = ArrayFiles(
        {split: (len(pixels), pixels.__getitem__) for split, pixels in images.items()}, str(path)
    )
    train_examples, test_examples = (
        array_examples(split, labels[split], classes) for split in ("train", "test")
    )
    return Source(
        "cifar10", path.name, classes, carve(train_examples, [], test_examples, settings), files
    )
