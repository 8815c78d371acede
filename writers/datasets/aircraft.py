"""FGVC-Aircraft: 100 variants of airplanes; fgvc-aircraft-2013b/data/ with images/ and lists.

A part of the official train and val (6,667 together), drawn by seed, becomes val; the rest is
train. The protocol `official` keeps the two apart. Bounding boxes are ignored. The banner of 20
pixels at the bottom of each image is kept, as in Kornblith et al. 2019 and Salman et al. 2020.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.formats.split_lists import Lists, class_folders, open_lists
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="aircraft",
    title="FGVC-Aircraft (variants)",
    metric="mean_per_class",
    num_classes=100,
    protocols=("salman", "kornblith", "official"),
    default_protocol="salman",
    split_sizes={"train": 6667, "test": 3333},
    protocol_sizes={"official": {"train": 3334, "val": 3333, "test": 3333}},
    license="non-commercial research only",
    citation="Maji et al. 2013, Fine-grained visual classification of aircraft",
    where=(
        "fgvc-aircraft-2013b.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft, "
        "unpacked"
    ),
    downloads=(
        Download(
            "fgvc-aircraft-2013b.tar.gz",
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            unpack=True,
        ),
    ),
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    lists = open_lists(path, "images_variant_trainval.txt", SPEC)
    if lists is None:
        return class_folders(path, settings, SPEC, "images_variant_trainval.txt")
    classes = lists.lines("variants.txt")
    if settings.protocol == "official":
        train, val, test = (_listing(lists, split) for split in ("train", "val", "test"))
        return lists.source("aircraft", path, classes, train, test, settings, val=val)
    return lists.source(
        "aircraft", path, classes, _listing(lists, "trainval"), _listing(lists, "test"), settings
    )


def _listing(lists: Lists, split: str) -> list[tuple[str, str]]:
    """Parse lines such as `0034309 F/A-18`; return pairs of image file and class."""
    pairs = (line.partition(" ") for line in lists.lines(f"images_variant_{split}.txt"))
    return [(f"images/{image}.jpg", variant.strip()) for image, _, variant in pairs]
