"""Patch Camelyon: 96 x 96 patches of lymph nodes, with or without tumor tissue in the center.

Reads six unpacked HDF5 files with h5py. Splits are the official train, valid and test.
"""

from pathlib import Path
from typing import Any

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.arrays import ArrayFiles, array_examples, open_hdf5
from writers.formats.layout_search import check_labels, find, need
from writers.source import Source, SplitSettings, open_source
from writers.text_names import counted

PREFIX = "camelyonpatch_level_2_split_"
URL = "https://zenodo.org/record/2546921/files/"
CHECKSUMS = {  # number of bytes and sha256 of each .h5.gz, from TensorFlow Datasets
    "train_x": (6_421_353_462, "d619e741468a7ab35c7e4a75e6821b7e7e6c9411705d45708f2a0efc8960656c"),
    "train_y": (21_378, "b74126d2c01b20d3661f9b46765d29cf4e4fba6faba29c8e0d09d406331ab75a"),
    "valid_x": (805_965_320, "f82ee1670d027b4ec388048d9eabc2186b77c009655dae76d624c0ecb053ccb2"),
    "valid_y": (3_038, "ce1ae30f08feb468447971cfd0472e7becd0ad96d877c64120c72571439ae48c"),
    "test_x": (800_875_929, "79174c2201ad521602a5888be8f36ee10875f37403dd3f2086caf2182ef87245"),
    "test_y": (3_040, "0a522005fccc8bbd04c5a117bfaf81d8da2676f03a29d7499f71d0a0bd6068ef"),
}

SPEC = DatasetSpec(
    name="pcam",
    title="Patch Camelyon",
    metric="top1",
    num_classes=2,
    protocols=("vtab",),
    split_sizes={"train": 262_144, "val": 32_768, "test": 32_768},
    license="CC0",
    citation="Veeling et al. 2018, Rotation equivariant CNNs for digital pathology",
    where=(
        "https://zenodo.org/record/2546921: the six .h5.gz with images (x) and labels (y), unpacked"
    ),
    downloads=tuple(
        Download(
            f"{PREFIX}{part}.h5.gz",
            f"{URL}{PREFIX}{part}.h5.gz",
            f"sha256:{sha256}",
            num_bytes,
            unpack=True,
        )
        for part, (num_bytes, sha256) in CHECKSUMS.items()
    ),
)

CLASSES = ["normal", "tumor"]
SPLITS = {"train": "train", "val": "valid", "test": "test"}


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    if all(find(path, f"{PREFIX}{part}_x.h5*") is None for part in SPLITS.values()):
        return open_source(path, settings, name="pcam", classes=CLASSES)
    images, examples = {}, {}
    for split, part in SPLITS.items():
        images[split], labels = _load(path, part)
        examples[split] = array_examples(split, labels, CLASSES)
    files = ArrayFiles(
        {split: (len(pixels), pixels.__getitem__) for split, pixels in images.items()}, str(path)
    )
    return Source("pcam", path.name, CLASSES, examples, files)


def _load(path: Path, part: str) -> tuple[Any, list[int]]:
    """Open the images, uint8 [N, 96, 96, 3], on disk, and read their labels.

    Raises UserError if the images have another shape or type, or do not fit the labels.
    """
    files = [
        need(path, f"{PREFIX}{part}_{kind}.h5", "Unpack the .h5.gz in the same folder (gunzip).")
        for kind in "xy"
    ]
    images, labels = open_hdf5(files[0], "x"), open_hdf5(files[1], "y")[:].ravel().tolist()
    if images.dtype != "uint8" or images.shape[1:] != (96, 96, 3) or len(images) != len(labels):
        raise UserError(
            f"{files[0]} has images {images.dtype} {images.shape} for "
            f"{counted(len(labels), 'label')}.",
            "Download it again.",
        )
    check_labels(labels, 2, str(files[1]))
    return images, labels
