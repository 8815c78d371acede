"""Images in arrays (CIFAR's pickles, .mat, .npz, HDF5) as files of a source.

When an image is read, it is returned as a PGM or PPM file: a line of text and the pixels, without
loss.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from writers.errors import UserError
from writers.source import Example


class ArrayFiles:
    """Files named `<part>/<number>`, one array of images per part."""

    def __init__(
        self, parts: Mapping[str, tuple[int, Callable[[int], np.ndarray]]], origin: str
    ) -> None:
        """Wrap arrays.

        Args:
            parts: part -> number of images, and a thread-safe function that maps an image's index
                to its pixels, uint8 [H, W] or [H, W, 3].
            origin: name of the archive, for error messages.
        """
        self._parts, self._origin = parts, origin

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        return [
            f"{part}/{number:07d}"
            for part, (count, _) in self._parts.items()
            for number in range(count)
        ]

    def read(self, name: str) -> bytes:
        """Read one file. Raises OSError."""
        part, _, number = name.rpartition("/")
        return to_ppm(self._parts[part][1](int(number)))

    def where(self, name: str) -> str:
        """Describe the location of a file for messages."""
        return f"{self._origin}, {name}"


def to_ppm(pixels: np.ndarray) -> bytes:
    """Encode pixels, uint8 [H, W] or [H, W, 3], as PGM or PPM."""
    assert pixels.dtype == np.uint8 and pixels.shape[2:] in ((), (3,))
    kind = "P6" if pixels.ndim == 3 else "P5"
    return f"{kind} {pixels.shape[1]} {pixels.shape[0]} 255\n".encode() + pixels.tobytes()


def array_examples(part: str, labels: Sequence[int], classes: Sequence[str]) -> list[Example]:
    """Make the examples of one part of `ArrayFiles`, in the array's order."""
    return [
        Example(f"{part}/{number:07d}", label, f"{classes[label]}/{part}{number:07d}")
        for number, label in enumerate(labels)
    ]


def open_hdf5(file: Path, name: str) -> Any:
    """Open the array `name` of an HDF5 file without reading it.

    Slices of the returned h5py.Dataset are read on access, one at a time even in several threads.

    Raises:
        UserError: h5py is missing, or the file is damaged or has no such array.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"Reading {file.name} needs h5py.", "pip install h5py") from error
    try:
        return h5py.File(file, "r")[name]
    except (OSError, KeyError) as error:
        raise UserError(
            f"{file} is not a complete HDF5 file with an array '{name}': {error}",
            "Download it again.",
        ) from error
