"""Damaged or incomplete files of VTAB's tasks are refused with the file's name."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.helpers.vtab_trees import MAKERS
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError

SETTINGS = SplitSettings(val=0.1)


def overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def write_svhn_with_label_10(root: Path) -> None:
    savemat(
        root / "test_32x32.mat",
        {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [11]])},
    )


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (
            "svhn",
            lambda root: overwrite(
                root / "test_32x32.mat", (root / "test_32x32.mat").read_bytes()[:3000]
            ),
            "test_32x32.mat",
        ),
        ("svhn", lambda root: (root / "test_32x32.mat").unlink(), "has no test_32x32.mat"),
        ("svhn", write_svhn_with_label_10, r"test_32x32\.mat: label 10 of image 1"),
        ("pcam", lambda root: overwrite(next(root.rglob("*test_y.h5")), b"no"), "test_y.h5"),
        (
            "pcam",
            lambda root: shutil.copy(
                next(root.rglob("*test_y.h5")), next(root.rglob("*train_y.h5"))
            ),
            "train_x.h5",
        ),
        (
            "clevr-count",
            lambda root: next(root.rglob("CLEVR_val_000003.png")).unlink(),
            "CLEVR_val_000003.png is missing",
        ),
        (
            "clevr-count",
            lambda root: overwrite(next(root.rglob("CLEVR_val_scenes.json")), b'{"scenes": [{}'),
            "val_scenes.json",
        ),
        ("dsprites-location", lambda root: overwrite(next(root.glob("*.hdf5")), b"no"), "hdf5"),
        (
            "smallnorb-azimuth",
            lambda root: next(root.glob("*testing-info*")).unlink(),
            "testing-info",
        ),
        (
            "smallnorb-azimuth",
            lambda root: overwrite(next(root.glob("*testing-dat*")), b"\x1f\x8b123"),
            "testing-dat",
        ),
        (
            "smallnorb-azimuth",
            lambda root: shutil.copy(
                next(root.glob("*training-dat*")), next(root.glob("*testing-dat*"))
            ),
            "testing has images",
        ),
        (
            "kitti-distance",
            lambda root: next(root.rglob("label_2/000004.txt")).unlink(),
            "000004.txt is missing",
        ),
        (
            "kitti-distance",
            lambda root: next(root.rglob("label_2/000004.txt")).write_text("Car 1 2\n"),
            "000004",
        ),
        (
            "kitti-distance",
            lambda root: next(root.rglob("train_rand.txt")).write_text("1,x"),
            "train_rand.txt",
        ),
    ],
)
def test_an_error_names_the_damaged_file(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], message: str
):
    root = MAKERS[name](tmp_path)
    spoil(root)
    with pytest.raises(UserError, match=message):
        open_dataset(name, root, SETTINGS)
