"""Caltech-256: 257 classes with the clutter class, 80 to 827 images each; 256_ObjectCategories/NNN.name/NNN_MMMM.jpg.

The first 60 images of a class, by name, are for training (Salman et al. 2020), the others are the test; val is carved out of
train. Files that are no images (056.dog/greg, 198.spider/RENAME2) are passed over.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.firsts import first_of_each
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="caltech256", title="Caltech-256", metric="mean_per_class", num_classes=257, protocols=("salman",),
    split_sizes={"train": 15_420, "test": 15_187}, licence="CC BY 4.0",
    citation="Griffin, Holub and Perona 2007, Caltech-256 object category dataset",
    where="https://data.caltech.edu/records/nyy15-4j048: 256_ObjectCategories.tar, as it is or unpacked",
    downloads=(Download("256_ObjectCategories.tar",
                        "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
                        "md5:67b4f42ca05d46448c6bb8ecd2220f6d"),))


def open(path: Path, settings: SplitSettings) -> Source:
    tar = path / "256_ObjectCategories.tar"
    return first_of_each(tar if tar.is_file() else path, settings, name="caltech256", number=60)
