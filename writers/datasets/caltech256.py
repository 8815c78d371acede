"""Caltech-256: 257 classes, including the clutter class, of 80 to 827 images each.

Reads 256_ObjectCategories/NNN.name/NNN_MMMM.jpg.

The first 60 images per class by name are train (Salman et al. 2020), the rest test; val is drawn
from train. Files that are not images and nested folders (198.spider/RENAME2, 056.dog/greg) are
skipped. The protocol `carved` splits by fraction, if the dataset is used for pretraining.
"""

import re
from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.first_n_split import first_of_each
from writers.formats.layout_search import find
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="caltech256",
    title="Caltech-256",
    metric="mean_per_class",
    num_classes=257,
    protocols=("salman", "carved"),
    default_protocol="salman",
    split_sizes={"train": 15_420, "test": 15_187},
    protocol_sizes={"carved": {}},
    license="CC BY 4.0",
    citation="Griffin, Holub and Perona 2007, Caltech-256 object category dataset",
    where=(
        "https://data.caltech.edu/records/nyy15-4j048: 256_ObjectCategories.tar, as it is or "
        "unpacked"
    ),
    downloads=(
        Download(
            "256_ObjectCategories.tar",
            "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
            "md5:67b4f42ca05d46448c6bb8ecd2220f6d",
        ),
    ),
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open Caltech-256.

    Raises:
        UserError: a folder is not one of the classes.
    """
    place = find(path, "256_ObjectCategories") or find(path, "256_ObjectCategories.tar") or path
    source = first_of_each(
        place, settings, name="caltech256", number=None if settings.protocol == "carved" else 60
    )
    strangers = [name for name in source.classes if not re.match(r"\d{3}\.", name)]
    if strangers and len(strangers) < len(source.classes):  # some mirrors omit the numbers
        raise UserError(
            f"{path} has the folder {strangers[0]}, which is none of 001.ak47 to 257.clutter.",
            "Remove it.",
        )
    return source
