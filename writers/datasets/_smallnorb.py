"""Small NORB for VTAB's tasks: gray images of toys, 96 x 96, from two cameras.

Reads four .mat files, gzipped or not. Only the left camera's image is used, as in VTAB. Train is
the official training set; val and test are halves of the official test set. VTAB's val is the first
half in the order of TensorFlow Datasets. Here the half is drawn class by class, with a fixed seed.
"""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from writers.dataset import Download
from writers.errors import UserError
from writers.formats.arrays import ArrayFiles, array_examples
from writers.formats.layout_search import check_labels, find, halve
from writers.source import Source, SplitSettings, open_source

URL = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
STEMS = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
CHECKSUMS = {  # number of bytes and sha256, from TensorFlow Datasets
    "train-dat": (131_896_188, "5ffd6272a07d32695ee1082a26a41a93a37aab8c28da047f8c34ed348d214873"),
    "train-info": (71_052, "de7eb932ebe7a4ee16217fead60660d0eb3d23632c2f4d1c51f88c501c17bf32"),
    "test-dat": (130_799_817, "cf7104eed3e51174d2f65b66d1e5878b9da233b886f161b0d88f4510ba2c7474"),
    "test-info": (10_428, "16adf314226327ee006d1a44db8cfef52773c06c829951d5653a9f6f310248a2"),
}
DOWNLOADS = tuple(
    Download(name, URL + name, f"sha256:{sha256}", num_bytes)
    for part, (num_bytes, sha256) in CHECKSUMS.items()
    for name in [f"{STEMS[part.partition('-')[0]]}-{part.partition('-')[2]}.mat.gz"]
)
SPLIT_SIZES = {"train": 24_300, "val": 12_150, "test": 12_150}
LICENSE = "research only"
CITATION = (
    "LeCun, Huang and Bottou 2004, Learning methods for generic object recognition with invariance "
    "to pose and lighting"
)
WHERE = f"{URL}: the -dat and -info files of training and testing, as .mat.gz or .mat"
# first four bytes of a file, as an integer -> dtype
TYPES: dict[int, np.dtype] = {
    0x1E3D4C55: np.dtype("u1"),
    0x1E3D4C54: np.dtype("<i4"),
}


def open_smallnorb(
    path: Path, settings: SplitSettings, name: str, column: int, step: int, classes: Sequence[str]
) -> Source:
    """Open small NORB with a column of -info as label.

    Column 1 is the elevation and column 2 the azimuth. A label is the value divided by `step`.
    """
    if all(_find(path, split, "dat") is None for split in STEMS):
        return open_source(path, settings, name=name, classes=classes)
    images, examples = {}, {}
    for split in STEMS:
        pixels, labels = _load(path, split, column, step, len(classes))
        images[split], examples[split] = pixels, array_examples(split, labels, classes)
    val, test = halve(examples["test"])
    files = ArrayFiles(
        {split: (len(pixels), pixels.__getitem__) for split, pixels in images.items()}, str(path)
    )
    return Source(
        name,
        path.name,
        list(classes),
        {"train": examples["train"], "val": val, "test": test},
        files,
    )


def _load(
    path: Path, split: str, column: int, step: int, num_classes: int
) -> tuple[np.ndarray, list[int]]:
    """Read the left images, uint8 [N, 96, 96], and their labels.

    Raises UserError if a file is missing or damaged, or if the files do not fit together.
    """
    arrays = {}
    for kind in ("dat", "info"):
        file = _find(path, split, kind)
        if file is None:
            raise UserError(f"{path} has no {STEMS[split]}-{kind}.mat.gz.", WHERE)
        arrays[kind] = _read_matrix(file)
    pixels, info = arrays["dat"], arrays["info"]
    if (
        pixels.dtype != np.uint8
        or pixels.shape[1:] != (2, 96, 96)
        or info.shape != (len(pixels), 4)
    ):
        raise UserError(
            f"{path}: {STEMS[split]} has images {pixels.shape} and labels {info.shape}.",
            "Fetch both again.",
        )
    labels = (info[:, column] // step).tolist()
    check_labels(labels, num_classes, f"{path}, {STEMS[split]}-info")
    return pixels[:, 0], labels


def _find(path: Path, split: str, kind: str) -> Path | None:
    return find(path, f"{STEMS[split]}-{kind}.mat") or find(path, f"{STEMS[split]}-{kind}.mat.gz")


def _read_matrix(file: Path) -> np.ndarray:
    """Return the array of a file in NORB's format, of the type and dimensions that the file states.

    The format: type, number of dimensions, at least three dimensions, values. Raises UserError if
    the file is damaged.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        magic, num_dimensions = np.frombuffer(data, "<i4", 2).tolist()
        shape = np.frombuffer(data, "<i4", num_dimensions, offset=8).tolist()
        return np.frombuffer(
            data, TYPES[magic], int(np.prod(shape)), offset=8 + 4 * max(3, num_dimensions)
        ).reshape(shape)
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise UserError(
            f"{file} is not a complete file of NORB: {error!r}", "Download it again."
        ) from error
