"""DMLab: frames of a 3D world, 360 x 480, in six classes.

The classes are {close, far, very far} x {good, bad reward}. Reads unpacked TFRecords:

    dmlab-train.tfrecord*  dmlab-validation.tfrecord*  dmlab-test.tfrecord*

Uses the official splits. Classes are named by number, because the files do not name them.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.layout_search import check_labels, find
from writers.formats.tfrecords import DamagedRecordError, Place, PlacesInFiles, read_examples
from writers.source import Example, Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="dmlab",
    title="DMLab",
    metric="top1",
    num_classes=6,
    protocols=("vtab",),
    split_sizes={"train": 65_550, "val": 22_628, "test": 22_735},
    license="not stated with the data",
    citation="Zhai et al. 2019, The Visual Task Adaptation Benchmark",
    where="https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz, unpacked",
    downloads=(
        Download(
            "dmlab.tar.gz",
            "https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz",
            "sha256:638b18fa69a5d61bbc310cd0b87ac603a39f41de0fdb07b6e77de274a24480a4",
            3_017_022_789,
            unpack=True,
        ),
    ),
)

CLASSES = [str(label) for label in range(6)]
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    first = find(path, "dmlab-*.tfrecord*")
    if first is None:
        return open_source(path, settings, name="dmlab", classes=CLASSES)
    places: dict[str, Place] = {}
    splits: dict[str, list[Example]] = {}
    for split, part in SPLITS.items():
        splits[split] = []
        for file in sorted(first.parent.glob(f"dmlab-{part}.tfrecord*")):
            for number, (place, label) in enumerate(_records(file)):
                key = f"{file.name}/{number:06d}"
                places[key] = place
                splits[split].append(Example(key, label, f"{CLASSES[label]}/{key}"))
        if not splits[split]:
            raise UserError(f"{first.parent} has no images in dmlab-{part}.tfrecord*.", SPEC.where)
    return Source("dmlab", path.name, CLASSES, splits, PlacesInFiles(places))


def _records(file: Path) -> list[tuple[Place, int]]:
    """Return where each record's image is in the file, and its label.

    Raises UserError if the file is damaged or has other records.
    """
    try:
        records = [(example["image"], example["label"]) for example in read_examples(file)]
    except (DamagedRecordError, KeyError) as error:
        raise UserError(
            f"{file} is not a complete file of DMLab: {error}", "Download it again."
        ) from error
    places = [
        (place, label)
        for place, label in records
        if isinstance(place, Place) and isinstance(label, int)
    ]
    if len(places) != len(records):
        raise UserError(
            f"{file} has records without the image and label of DMLab.", "Download it again."
        )
    check_labels([label for _, label in places], len(CLASSES), str(file))
    return places
