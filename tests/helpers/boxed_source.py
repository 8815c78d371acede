"""A source of six images with zero to three boxes each, in memory."""

import dataclasses
import io

import numpy as np

from tests.helpers.pictures import picture
from writers.source import BoxLabel, Example, Source

CLASSES = ["cat", "dog", "owl"]
SIZES = [(160, 120), (120, 160), (50, 40), (200, 100), (64, 64), (97, 131)]
KINDS = ["RGB", "RGB", "RGB", "L", "RGB", "RGB"]


class Memory:
    """Files in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def names(self) -> list[str]:
        return list(self.files)

    def read(self, name: str) -> bytes:
        return self.files[name]

    def where(self, name: str) -> str:
        return f"memory/{name}"


def boxed(number: int) -> tuple[BoxLabel, ...]:
    """Return the 0 to 3 boxes of an image; image 1 has none."""
    width, height = SIZES[number]
    return tuple(
        BoxLabel(3.5 * k, 2.0 + k, width - k, height - 0.25 * k, (number + k) % 3, k == 1)
        for k in range((number + 3) % 4)
    )


def source_of(numbers: range, *, has_boxes: bool = True) -> Source:
    """Make a source of these images; image 3 is gray, image 5 progressive."""
    files, examples = {}, []
    for number in numbers:
        buffer = io.BytesIO()
        image = picture(number, *SIZES[number], KINDS[number])
        image.save(buffer, "JPEG", quality=92, subsampling=number % 3, progressive=number == 5)
        files[f"{number}.jpg"] = buffer.getvalue()
        boxes = boxed(number)
        labels = tuple(1 if any(box.label == k for box in boxes) else -1 for k in range(3))
        examples.append(
            Example(f"{number}.jpg", 0, str(number), labels, boxes if has_boxes else None)
        )
    splits = {"train": examples}
    return Source("boxed", "memory", CLASSES, splits, Memory(files), multi_label=True)


def expected(number: int) -> np.ndarray:
    """Return the boxes of an image as a `.beton` file stores them, float32 [n, 6]."""
    rows = [dataclasses.astuple(box) for box in boxed(number)]
    return np.array(rows, np.float32).reshape(-1, 6)
