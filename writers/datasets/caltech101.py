"""Caltech-101: 101 classes of 31 to 800 photographs, and a background class.

`salman`, the default: 101 classes; the first 30 images of a class, by name, are for training, the others are the test (Salman
et al. 2020, whose code leaves out the very first one). `kornblith`, and VTAB: 102 classes with the background, 30 of each for
training by a draw of our own, since the published one depends on a file system's order. `carved`: splits by shares, for a
source. Val is carved out of train. A folder with train/ and test/ keeps its own splits.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.firsts import first_of_each
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="caltech101", title="Caltech-101", metric="mean_per_class", num_classes=101, licence="CC BY 4.0",
    split_sizes={"train": 3030, "test": 5647}, protocols=("salman", "kornblith", "vtab", "carved"),
    protocol_sizes={"kornblith": {"train": 3060, "test": 6084}, "carved": {},
                    "vtab": {"train": 800, "val": 200, "test": 6084}},
    protocol_classes={"kornblith": 102, "vtab": 102},
    citation="Li, Andreeto, Ranzato and Perona 2022, Caltech 101",
    where="https://data.caltech.edu/records/mzrjq-6wc02: caltech-101.zip, with 101_ObjectCategories.tar.gz in it unpacked, "
          "or an uncompressed tar of 101_ObjectCategories/",
    downloads=(Download("caltech-101.zip", "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                        "md5:3138e1922a9193bfa496528edbbc45d0", 137_414_764, unpack=True),))

BACKGROUND = "BACKGROUND_Google"
NUM_TRAIN = 30


def open(path: Path, settings: SplitSettings) -> Source:
    protocol = settings.protocol or "salman"
    exclude = [] if protocol in ("kornblith", "vtab") else [BACKGROUND]
    if protocol == "carved":
        return open_source(path, settings, name="caltech101", exclude=exclude)
    return first_of_each(path, settings, name="caltech101", number=NUM_TRAIN, exclude=exclude, drawn=protocol != "salman")
