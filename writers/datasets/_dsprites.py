"""dSprites for VTAB's tasks: 737,280 drawings of 64 x 64, one per combination of six factors.

Reads the HDF5 file (with h5py) or the .npz. Eight pixels are packed into a byte: 377 MB in memory
instead of 3 GB. White is 255. There is no official split. VTAB takes 80, 10 and 10 % in the order
of TensorFlow Datasets. Here splits of the same sizes are drawn class by class, with a fixed seed.
"""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from writers.dataset import Download
from writers.errors import UserError
from writers.formats.arrays import ArrayFiles, array_examples, open_hdf5
from writers.formats.layout_search import find, shares
from writers.source import Source, SplitSettings, carve, open_source
from writers.text_names import counted

STEM = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64"
DOWNLOADS = (
    Download(
        f"{STEM}.hdf5",
        f"https://github.com/google-deepmind/dsprites-dataset/raw/master/{STEM}.hdf5",
        "sha256:729fa22e884c9c500e1f17415d580746b4c5894fbbb780a1319bbcfa39a745bb",
        28_024_106,
    ),
)
SPLIT_SIZES = {"train": 589_824, "val": 73_728, "test": 73_728}
LICENSE = "Apache-2.0"
CITATION = "Matthey et al. 2017, dSprites: disentanglement testing sprites dataset"
WHERE = f"https://github.com/google-deepmind/dsprites-dataset: {STEM}.hdf5 or .npz"
SLAB = 4096  # images read at once


def open_dsprites(
    path: Path,
    settings: SplitSettings,
    name: str,
    factor: int,
    num_values: int,
    classes: Sequence[str],
) -> Source:
    """Open dSprites with one factor as label.

    The `num_values` values of the factor are grouped into equal ranges, one per class. `factor`
    is 0 for color, 1 for shape, 2 for scale, 3 for orientation, 4 for x, 5 for y.

    Raises:
        UserError: the file is not that of dSprites; or there is none, and `path` is no source of
            images in class folders.
    """
    file = find(path, f"{STEM}.hdf5") or find(path, f"{STEM}.npz")
    if file is None:
        return open_source(path, settings, name=name, classes=classes)
    values, slabs = _open_hdf5(file) if file.suffix == ".hdf5" else _open_npz(file)
    if (
        values.ndim != 2
        or values.shape[1] != 6
        or values.min() < 0
        or values[:, factor].max() >= num_values
    ):
        raise UserError(f"{file}: its factors are not those of dSprites.", "Download it again.")
    packed = np.empty((len(values), 64, 8), np.uint8)
    done = 0
    for slab in slabs:
        packed[done : done + len(slab)] = np.packbits(slab, axis=2)
        done += len(slab)
    if done != len(values):
        raise UserError(
            f"{file} has {done} images for {counted(len(values), 'label')}.", "Download it again."
        )

    def pixels(number: int) -> np.ndarray:
        return np.unpackbits(packed[number], axis=1) * np.uint8(255)

    labels = (values[:, factor] * len(classes) // num_values).tolist()
    splits = carve(array_examples("all", labels, classes), [], [], shares(0.1, 0.1))
    return Source(
        name,
        path.name,
        list(classes),
        splits,
        ArrayFiles({"all": (len(packed), pixels)}, str(file)),
    )


def _open_hdf5(file: Path) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Read the factor values, [N, 6], and the images in chunks."""
    images, values = open_hdf5(file, "imgs"), open_hdf5(file, "latents/classes")[:]
    return values, (images[start : start + SLAB] for start in range(0, len(images), SLAB))


def _open_npz(file: Path) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    try:
        with np.load(
            file, allow_pickle=False
        ) as content:  # never read the member `metadata`, which is a pickle
            return content["latents_classes"], _slabs(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} is not a complete .npz of dSprites: {error}", "Download it again."
        ) from error


def _slabs(file: Path) -> Iterator[np.ndarray]:
    """Yield the images, uint8 [n, H, W], n <= SLAB at a time, from the compressed file.

    numpy would unpack all 3 GB at once.
    """
    with zipfile.ZipFile(file) as archive, archive.open("imgs.npy") as stream:
        np.lib.format.read_magic(stream)
        (number, height, width), _, dtype = np.lib.format.read_array_header_1_0(stream)
        assert dtype == np.uint8
        for start in range(0, number, SLAB):
            count = min(SLAB, number - start)
            yield np.frombuffer(stream.read(count * height * width), np.uint8).reshape(
                count, height, width
            )
