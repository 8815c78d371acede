"""Describable Textures: 47 classes.

Reads dtd/images/<class>/*.jpg and dtd/labels/{train,val,test}{1..10}.txt.

The first fold is used, as in Kornblith et al. 2019 and Salman et al. 2020. A part of train1 and
val1 (3,760 together), drawn by seed, becomes val; the rest is train; test1 is test. The protocol
`official` keeps train1 and val1 apart. `vtab` draws 800 training images from train1 and 200
validation images from val1.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.formats.split_lists import Lists, class_folders, open_lists
from writers.source import Source, SplitSettings

OFFICIAL = {"train": 1880, "val": 1880, "test": 1880}

SPEC = DatasetSpec(
    name="dtd",
    title="Describable Textures (first fold)",
    metric="top1",
    num_classes=47,
    split_sizes={"train": 3760, "test": 1880},
    protocols=("salman", "kornblith", "official", "vtab"),
    default_protocol="salman",
    protocol_sizes={"official": OFFICIAL, "vtab": OFFICIAL},
    license="research only",
    citation="Cimpoi et al. 2014, Describing textures in the wild",
    where="dtd-r1.0.1.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/dtd, unpacked",
    downloads=(
        Download(
            "dtd-r1.0.1.tar.gz",
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            "md5:fff73e5086ae6bdbea199a49dfb8a4c1",
            unpack=True,
        ),
    ),
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    lists = open_lists(path, "labels/train1.txt", SPEC)
    if lists is None:
        return class_folders(path, settings, SPEC, "labels/train1.txt")
    train, val, test = (_listing(lists, split) for split in ("train1", "val1", "test1"))
    classes = sorted({name for _, name in (*train, *val, *test)})
    lists.refuse_strangers("images/", classes)
    if settings.protocol in ("official", "vtab"):
        return lists.source("dtd", path, classes, train, test, settings, val=val)
    return lists.source("dtd", path, classes, [*train, *val], test, settings)


def _listing(lists: Lists, split: str) -> list[tuple[str, str]]:
    """Parse lines such as `banded/banded_0002.jpg`; return pairs of image file and class."""
    return [(f"images/{line}", line.split("/")[0]) for line in lists.lines(f"labels/{split}.txt")]
