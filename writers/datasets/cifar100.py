"""CIFAR-100: 100 fine classes of 32 x 32 images; reads cifar-100-python.tar.gz, packed or unpacked.

Images are stored as raw pixels, because training on JPEGs of such small images costs ten points of
accuracy. Val is drawn from train by seed.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.formats.arrays import ArrayFiles, array_examples
from writers.formats.cifar import classes_of, images_of, read_batches
from writers.formats.split_lists import class_folders
from writers.source import Source, SplitSettings, carve

SPEC = DatasetSpec(
    name="cifar100",
    title="CIFAR-100",
    metric="top1",
    num_classes=100,
    split_sizes={"train": 50_000, "test": 10_000},
    protocols=("salman", "kornblith", "vtab"),
    default_protocol="salman",
    license="not stated by its authors",
    citation="Krizhevsky 2009, Learning multiple layers of features from tiny images",
    where=(
        "https://www.cs.toronto.edu/~kriz/cifar.html: cifar-100-python.tar.gz, as it is or unpacked"
    ),
    downloads=(
        Download(
            "cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
        ),
    ),
)

NAMES = ["train", "test", "meta"]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    batches = read_batches(path, "cifar-100-python", "cifar-100-python.tar.gz", NAMES)
    if batches is None:
        return class_folders(path, settings, SPEC, "cifar-100-python")
    classes = classes_of(batches[-1], "fine_label_names", NAMES[-1])
    parts = [
        images_of(batch, "fine_labels", len(classes), name)
        for batch, name in zip(batches[:-1], NAMES, strict=False)
    ]
    train = parts[0][0]
    labels = {"train": parts[0][1], "test": parts[1][1]}
    images = {"train": train, "test": parts[-1][0]}
    files = ArrayFiles(
        {split: (len(pixels), pixels.__getitem__) for split, pixels in images.items()}, str(path)
    )
    train_examples, test_examples = (
        array_examples(split, labels[split], classes) for split in ("train", "test")
    )
    return Source(
        "cifar100", path.name, classes, carve(train_examples, [], test_examples, settings), files
    )
