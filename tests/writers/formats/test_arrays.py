"""Images of arrays decode to the pixels of the array."""

import io

import numpy as np
import pytest
from PIL import Image

from writers.formats.arrays import ArrayFiles, to_ppm


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (1, 1, 3)])
def test_pixels_are_lossless(shape: tuple[int, ...]):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(to_ppm(pixels))))
    assert decoded.shape == shape and (decoded == pixels).all()
    transposed = np.ascontiguousarray(pixels.swapaxes(0, 1)).swapaxes(0, 1)  # not contiguous
    assert to_ppm(transposed) == to_ppm(pixels)


def test_files_are_named_by_part_and_number():
    arrays = {"train": np.zeros((3, 4, 4), np.uint8), "test": np.full((2, 4, 4, 3), 9, np.uint8)}
    files = ArrayFiles(
        {part: (len(images), images.__getitem__) for part, images in arrays.items()}, "a.mat"
    )
    assert files.names() == [
        "train/0000000",
        "train/0000001",
        "train/0000002",
        "test/0000000",
        "test/0000001",
    ]
    assert (np.asarray(Image.open(io.BytesIO(files.read("test/0000001")))) == 9).all()
    assert files.where("test/0000001") == "a.mat, test/0000001"
