"""SVHN, cropped: ten digits of house numbers, 32 x 32.

Reads train_32x32.mat and test_32x32.mat; label 10 is the digit 0.

Val is drawn from train by seed, class by class. By default it is a tenth of train, about as many
images as VTAB's 7,326. The extra set is not used.
"""

from pathlib import Path

import numpy as np

from writers.dataset import DatasetSpec, Download
from writers.errors import UserError
from writers.formats.arrays import ArrayFiles, array_examples
from writers.formats.layout_search import check_labels, find, need
from writers.source import Source, SplitSettings, carve, open_source
from writers.text_names import counted

URL = "http://ufldl.stanford.edu/housenumbers/"

SPEC = DatasetSpec(
    name="svhn",
    title="Street View House Numbers (cropped)",
    metric="top1",
    num_classes=10,
    protocols=("vtab",),
    split_sizes={"train": 73_257, "test": 26_032},
    license="non-commercial use only",
    citation=(
        "Netzer et al. 2011, Reading digits in natural images with unsupervised feature learning"
    ),
    where=f"{URL}: train_32x32.mat and test_32x32.mat",
    downloads=(
        Download(
            "train_32x32.mat",
            URL + "train_32x32.mat",
            "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
            182_040_794,
        ),
        Download(
            "test_32x32.mat",
            URL + "test_32x32.mat",
            "md5:eb5a983be6a315427106f1b164d9cef3",
            64_275_384,
        ),
    ),
)

CLASSES = [str(digit) for digit in range(10)]


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    if find(path, "train_32x32.mat") is None and find(path, "test_32x32.mat") is None:
        return open_source(path, settings, name="svhn", classes=CLASSES)
    arrays = {
        split: _load(need(path, f"{split}_32x32.mat", SPEC.where)) for split in ("train", "test")
    }
    train, test = (array_examples(split, labels, CLASSES) for split, (_, labels) in arrays.items())
    files = ArrayFiles(
        {split: (len(images), images.__getitem__) for split, (images, _) in arrays.items()},
        str(path),
    )
    return Source("svhn", path.name, CLASSES, carve(train, [], test, settings), files)


def _load(file: Path) -> tuple[np.ndarray, list[int]]:
    """Read images, uint8 [N, 32, 32, 3], and their digits. Raises UserError if they are damaged."""
    from scipy.io import loadmat

    try:
        content = loadmat(file)
        images, labels = content["X"], content["y"].ravel().astype(int)
        if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
            raise ValueError(
                f"its images are {images.dtype} {images.shape}, for {counted(len(labels), 'label')}"
            )
    except Exception as error:  # scipy raises many types for a damaged file
        raise UserError(
            f"{file} is not a complete file of SVHN: {error}", "Download it again."
        ) from error
    check_labels((labels - 1).tolist(), 10, str(file))
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), (labels % 10).tolist()
