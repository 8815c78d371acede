"""Stanford Cars: 196 classes, each a make, model and year.

Reads cars_train/, cars_test/, devkit/*.mat and cars_test_annos_withlabels.mat. The original host no
longer exists, so the class folders of mirrors, train/<class>/*.jpg and test/<class>/*.jpg, are
read, too.

A part of the official train, drawn by seed, becomes val. Bounding boxes are ignored.
"""

from pathlib import Path

import numpy as np

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.layout_search import check_labels
from writers.formats.mat import read_mat, variable
from writers.formats.split_lists import Lists, class_folders, open_lists
from writers.source import Source, SplitSettings

SPEC = DatasetSpec(
    name="cars",
    title="Stanford Cars",
    metric="top1",
    num_classes=196,
    protocols=("salman", "kornblith"),
    default_protocol="salman",
    split_sizes={"train": 8144, "test": 8041},
    license="non-commercial research only",
    citation="Krause et al. 2013, 3D object representations for fine-grained categorization",
    where="cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat (ai.stanford.edu no "
    "longer has them; mirrors "
    "do), or a mirror's train/ and test/<class>/*.jpg",
    downloads=(  # number of bytes and sha256 from TensorFlow Datasets
        Download(
            "cars_train.tgz",
            "",
            "sha256:512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
            979_269_282,
            unpack=True,
        ),
        Download(
            "cars_test.tgz",
            "",
            "sha256:bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
            977_350_468,
            unpack=True,
        ),
        Download(
            "car_devkit.tgz",
            "",
            "sha256:b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
            330_960,
            unpack=True,
        ),
        Download(
            "cars_test_annos_withlabels.mat",
            "",
            "sha256:790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05",
            185_758,
        ),
    ),
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    lists = open_lists(path, "devkit/cars_meta.mat", SPEC)
    if lists is None:
        return class_folders(path, settings, SPEC, "devkit/cars_meta.mat")
    meta = read_mat(lists.bytes("devkit/cars_meta.mat"), "devkit/cars_meta.mat")
    classes = [
        str(name).strip()
        for name in np.atleast_1d(variable(meta, "class_names", "devkit/cars_meta.mat"))
    ]
    train = _listing(lists, "devkit/cars_train_annos.mat", "cars_train", classes)
    test_name = next(
        (
            name
            for name in ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
            if lists.prefix + name in lists.names
        ),
        "cars_test_annos_withlabels.mat",
    )
    return lists.source(
        "cars", path, classes, train, _listing(lists, test_name, "cars_test", classes), settings
    )


def _listing(lists: Lists, name: str, folder: str, classes: list[str]) -> list[tuple[str, str]]:
    annotations = np.atleast_1d(variable(read_mat(lists.bytes(name), name), "annotations", name))
    if not {"class", "fname"} <= set(annotations.dtype.names or ()):
        raise UserError(f"{name} has no classes of images.", "Download it again.")
    labels = [int(number) - 1 for number in annotations["class"].tolist()]  # 1-based in the file
    check_labels(labels, len(classes), name)
    images = [str(image).strip() for image in annotations["fname"].tolist()]
    # some mirrors nest the folder in a folder of the same name
    if f"{lists.prefix}{folder}/{folder}/{images[0]}" in lists.names:
        folder = f"{folder}/{folder}"
    return [
        (f"{folder}/{image}", classes[label]) for image, label in zip(images, labels, strict=True)
    ]
