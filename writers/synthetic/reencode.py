"""Decode selected files, such as damaged images, by Pillow, and store them without loss."""

import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from writers.formats.arrays import to_ppm
from writers.formats.files import Files


def redrawn(data: bytes, change: Callable[[Image.Image], Image.Image]) -> bytes:
    """Decode an image to RGB, change it, and encode it without loss.

    Raises:
        OSError: Pillow cannot decode it.
    """
    with warnings.catch_warnings():
        # ignore warnings about damaged EXIF, as the writer does
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as image:
            return to_ppm(np.asarray(change(image.convert("RGB"))))


class RedrawnFiles:
    """Files, some of which are decoded by Pillow, changed, and encoded again without loss."""

    def __init__(
        self,
        files: Files,
        concerned: Callable[[str], bool],
        change: Callable[[Image.Image], Image.Image],
    ) -> None:
        """Wrap files.

        Args:
            files: the files to read from.
            concerned: returns True for the names to decode.
            change: function that is applied to the decoded RGB image.
        """
        self._files, self._concerned, self._change = files, concerned, change

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        return self._files.names()

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises OSError if Pillow cannot decode it."""
        data = self._files.read(name)
        if not self._concerned(name):
            return data
        return redrawn(data, self._change)

    def where(self, name: str) -> str:
        """Describe the location of a file for messages."""
        return self._files.where(name)
