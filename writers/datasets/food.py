"""Food-101: 101 dishes; food-101/images/<class>/<id>.jpg and food-101/meta/{train,test}.txt.

A part of the official train, drawn by seed, becomes val. The labels of train are noisy by design.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.formats.split_lists import class_folders, open_lists
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="food",
    title="Food-101",
    metric="top1",
    num_classes=101,
    protocols=("salman", "kornblith"),
    default_protocol="salman",
    split_sizes={"train": 75_750, "test": 25_250},
    license="the photographers'; research",
    citation="Bossard, Guillaumin and Van Gool 2014, Food-101",
    where=(
        "food-101.tar.gz from https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101, unpacked"
    ),
    downloads=(
        Download(
            "food-101.tar.gz",
            "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            "md5:85eeb15f3717b99a5da872d97d918f87",
            4_996_278_331,
            unpack=True,
        ),
    ),
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    lists = open_lists(path, "meta/train.txt", SPEC)
    if lists is None:
        return class_folders(path, settings, SPEC, "meta/train.txt")
    train, test = (
        [(f"images/{line}.jpg", line.split("/")[0]) for line in lists.lines(f"meta/{split}.txt")]
        for split in ("train", "test")
    )
    classes = sorted({name for _, name in (*train, *test)})
    lists.refuse_strangers("images/", classes)
    return lists.source("food", path, classes, train, test, settings)
