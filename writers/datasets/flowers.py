"""Oxford Flowers: 102 kinds; jpg/image_NNNNN.jpg with imagelabels.mat and setid.mat.

A part of the official train and val (the small sets `trnid` and `valid`, 10 images per class each),
drawn by seed, becomes val; the rest is train; test is `tstid`. The protocol `official` keeps train
and val apart. `vtab` draws 800 training images from `trnid` and 200 validation images from `valid`.
Some copies of the dataset swap train and test; here they are not swapped.
"""

from pathlib import Path

import numpy as np

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.layout_search import check_labels
from writers.formats.mat import read_mat, variable
from writers.formats.split_lists import class_folders, open_lists
from writers.source import Source, SplitSettings

URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"

OFFICIAL = {"train": 1020, "val": 1020, "test": 6149}

SPEC = DatasetSpec(
    name="flowers",
    title="Oxford Flowers 102",
    metric="mean_per_class",
    num_classes=102,
    split_sizes={"train": 2040, "test": 6149},
    protocols=("salman", "kornblith", "official", "vtab"),
    default_protocol="salman",
    protocol_sizes={"official": OFFICIAL, "vtab": OFFICIAL},
    license="not stated by its authors; research",
    citation=(
        "Nilsback and Zisserman 2008, Automated flower classification over a large number of "
        "classes"
    ),
    where=f"{URL}: 102flowers.tgz unpacked (jpg/), imagelabels.mat and setid.mat next to it",
    downloads=(
        Download(
            "102flowers.tgz",
            URL + "102flowers.tgz",
            "md5:52808999861908f626f3c1f4e79d11fa",
            unpack=True,
        ),
        Download(
            "imagelabels.mat", URL + "imagelabels.mat", "md5:e0620be6f572b9609742df49c70aed4d"
        ),
        Download("setid.mat", URL + "setid.mat", "md5:a5357ecc9cb78c4bef273ce3793fc85c"),
    ),
)

CLASSES = [f"{number:03}" for number in range(1, 103)]  # the files number classes, without names


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    lists = open_lists(path, "setid.mat", SPEC)
    if lists is None:
        return class_folders(path, settings, SPEC, "setid.mat")
    numbers = variable(
        read_mat(lists.bytes("imagelabels.mat"), "imagelabels.mat"), "labels", "imagelabels.mat"
    )
    labels = [int(number) - 1 for number in np.ravel(numbers)]
    check_labels(labels, len(CLASSES), "imagelabels.mat")
    sets = read_mat(lists.bytes("setid.mat"), "setid.mat")

    def listing(name: str) -> list[tuple[str, str]]:
        ids = [int(image) for image in np.ravel(variable(sets, name, "setid.mat"))]
        if not all(1 <= image <= len(labels) for image in ids):
            raise UserError(
                f"setid.mat: {name} names images that are not in imagelabels.mat.",
                "Fetch both again.",
            )
        return [(f"jpg/image_{image:05}.jpg", CLASSES[labels[image - 1]]) for image in ids]

    train, val, test = (listing(name) for name in ("trnid", "valid", "tstid"))
    if settings.protocol in ("official", "vtab"):
        return lists.source("flowers", path, CLASSES, train, test, settings, val=val)
    return lists.source("flowers", path, CLASSES, [*train, *val], test, settings)
