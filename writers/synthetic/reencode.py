"""Files of which some are given out as pixels, drawn anew by Pillow: damaged ones as far as it decodes them, or cut ones."""

import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from writers.formats.arrays import to_ppm
from writers.formats.files import Files


class RedrawnFiles:
    def __init__(
        self,
        files: Files,
        concerned: Callable[[str], bool],
        change: Callable[[Image.Image], Image.Image],
    ) -> None:
        """concerned: which files, by name. change: what becomes of an image, which is RGB."""
        self._files, self._concerned, self._change = files, concerned, change

    def names(self) -> Sequence[str]:
        return self._files.names()

    def read(self, name: str) -> bytes:
        """Raises OSError, too, for what Pillow does not decode."""
        data = self._files.read(name)
        if not self._concerned(name):
            return data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, as the writer does
            with Image.open(io.BytesIO(data)) as image:
                return to_ppm(np.asarray(self._change(image.convert("RGB"))))

    def where(self, name: str) -> str:
        return self._files.where(name)
