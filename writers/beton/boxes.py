"""Boxes of objects in a `.beton` file: one more blob per sample, in a field that FFCV can read.

A blob is little-endian float32 [n, 6]: left, top, right, bottom, class, difficult. Sides are pixels
of the stored image; right and bottom are exclusive. An image without objects has one row of zeros
with class -1. Its blob cannot be empty: FFCV identifies blobs by their offsets, and an empty blob
would have the same offset as the next one.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from writers.beton.encoding import MAX_SIDE
from writers.source import BoxLabel

COLUMNS = 6  # values per box
VALUE = np.dtype("<f4")
ROW_BYTES = COLUMNS * VALUE.itemsize
NO_OBJECT = -1  # class of the only row of an image without objects
TOLERANCE_PX = 1.0  # pixels by which a box may exceed the image; it is then clipped


class BoxError(ValueError):
    """A box does not fit its image; the message is the reason."""


@dataclass(frozen=True)
class BoxTable:
    """Boxes of all samples of a beton.

    Attributes:
        values: left, top, right, bottom, class, difficult, float32 [M, 6].
        starts: sample i has the rows starts[i] to starts[i + 1] - 1 of `values`, int64 [N + 1].
    """

    values: np.ndarray
    starts: np.ndarray

    def of(self, number: int) -> np.ndarray:
        """Return the boxes of a sample, float32 [n, 6]. Raises IndexError if there is no sample."""
        if not 0 <= number < len(self.starts) - 1:
            raise IndexError(f"there is no sample {number}")
        return self.values[self.starts[number] : self.starts[number + 1]]

    def of_many(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes of several samples, one sample after the other, and their counts.

        Args:
            numbers: samples, int64 [n].

        Returns:
            Boxes, float32 [M, 6], and the number of boxes of each sample, int64 [n].
        """
        counts = self.starts[numbers + 1] - self.starts[numbers]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.values[np.repeat(self.starts[numbers], counts) + within], counts


def blob_of(
    boxes: Sequence[BoxLabel],
    image: bytes,
    size: tuple[int, int],
    *,
    is_resized: bool,
    annotated_size: tuple[float, float] | None = None,
) -> bytes:
    """Return the blob of boxes in pixels of the stored image.

    Args:
        boxes: boxes in pixels of the image file.
        image: bytes of the image file. Its width and height are read only if `is_resized`.
        size: width and height of the stored image.
        is_resized: the stored image may differ in size from the file.
        annotated_size: width and height of the image file according to the annotation. None means
            that they are unknown.

    Raises:
        BoxError: a box is empty or exceeds the image by more than TOLERANCE_PX, or the image does
            not have the annotated size. Without boxes, the size is not checked.
    """
    if not boxes:
        return np.array([0, 0, 0, 0, NO_OBJECT, 0], VALUE).tobytes()
    original = _size_of(image) if is_resized else size
    check_size(annotated_size, original)
    values = np.array(
        [(box.left, box.top, box.right, box.bottom, box.label, box.difficult) for box in boxes],
        np.float64,
    )
    _check_inside(values, original)
    limits = np.array([*original, *original])
    scale = np.array([*size, *size]) / limits
    values[:, :4] = np.clip(values[:, :4], 0, limits) * scale
    stored = values.astype(VALUE)
    if not (stored[:, :2] < stored[:, 2:4]).all():
        raise BoxError("one of its boxes is empty")
    return stored.tobytes()


def check_boxes(
    boxes: Sequence[BoxLabel], image: bytes, annotated_size: tuple[float, float] | None = None
) -> None:
    """Check boxes against the size of their image file. Raises BoxError.

    `annotated_size` is that of `blob_of`; None means that the annotation states no size.
    """
    blob_of(boxes, image, (MAX_SIDE, MAX_SIDE), is_resized=True, annotated_size=annotated_size)


def check_size(annotated: tuple[float, float] | None, found: tuple[int, int]) -> None:
    """Raise BoxError if the annotated width and height are not those of the image.

    None means that the annotation states no size, so there is nothing to compare.
    """
    if annotated is None or annotated == found:
        return
    turned = annotated[::-1] == found
    raise BoxError(
        f"its annotation is of an image of {annotated[0]:g} x {annotated[1]:g} px, and the image "
        f"has {found[0]} x {found[1]}"
        + ("; boxes refer to pixels as they are stored, before any rotation" if turned else "")
    )


def read_boxes(path: Path, rows: np.ndarray, limits: tuple[int, int], num_classes: int) -> BoxTable:
    """Read the boxes of all samples. Memory: 24 bytes per box.

    Args:
        path: the beton.
        rows: rows of the samples, BOXED_SAMPLE [N].
        limits: lowest offset of a blob in the file, and highest offset of its end.
        num_classes: classes of boxes must be from 0 to num_classes - 1.

    Raises:
        ValueError: a blob is outside of the limits, or a box does not fit its image.
    """
    check_places(rows, limits)
    offsets, sizes = rows["boxes_offset"], rows["boxes_size"]
    counts = sizes.astype(np.int64) // ROW_BYTES
    starts = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
    places = np.repeat(offsets.astype(np.int64), counts) + ROW_BYTES * within
    content = np.memmap(path, np.uint8, "r")
    values = content[places[:, None] + np.arange(ROW_BYTES)].view(VALUE)
    is_object = values[:, 4] != NO_OBJECT
    owners = np.repeat(np.arange(len(rows)), counts)
    _check_values(values, is_object, owners, rows, num_classes)
    kept = np.bincount(owners[is_object], minlength=len(rows))
    return BoxTable(
        np.ascontiguousarray(values[is_object], np.float32),
        np.concatenate([[0], np.cumsum(kept)]),
    )


def check_places(rows: np.ndarray, limits: tuple[int, int]) -> None:
    """Raise ValueError if a blob of boxes is outside of `limits` or has an impossible size.

    `rows` is BOXED_SAMPLE [N]; `limits` are as in `read_boxes`.
    """
    offsets, sizes = rows["boxes_offset"], rows["boxes_size"]
    begin, end = (np.uint64(limit) for limit in limits)
    fits = (sizes > 0) & (sizes % ROW_BYTES == 0)
    fits &= (offsets >= begin) & (offsets <= end)
    fits &= sizes <= end - np.minimum(offsets, end)
    if not fits.all():
        number = np.flatnonzero(~fits)[0]
        raise ValueError(f"the boxes of sample {number} are outside of the file's data")


def _check_values(
    values: np.ndarray,
    is_object: np.ndarray,
    owners: np.ndarray,
    rows: np.ndarray,
    num_classes: int,
) -> None:
    """Raise ValueError if a box is not within its image, or its class or flag is invalid.

    Args:
        values: stored boxes of all images, VALUE [M, 6].
        is_object: bool [M]; False for a row that marks an image without objects.
        owners: int64 [M], number of the sample that has the box.
        rows: BOXED_SAMPLE [N].
        num_classes: number of classes.
    """
    left, top, right, bottom, label, difficult = values.T
    # A box with NaN does not fit: comparisons with NaN are False.
    fits = (left >= 0) & (left < right) & (right <= rows["width"][owners])
    fits &= (top >= 0) & (top < bottom) & (bottom <= rows["height"][owners])
    fits &= np.isin(label, np.arange(num_classes)) & np.isin(difficult, (0, 1))
    # the row that marks an image without objects must be the image's only row
    alone = np.bincount(owners, minlength=len(rows))[owners] == 1
    fits |= ~is_object & alone
    if not fits.all():
        place = int(np.flatnonzero(~fits)[0])
        raise ValueError(f"a box of sample {owners[place]} is {values[place].tolist()}")


def _check_inside(values: np.ndarray, size: tuple[int, int]) -> None:
    """Raise BoxError if a box exceeds the image by over TOLERANCE_PX, or covers no pixel of it.

    Args:
        values: float64 [n, 6], boxes in pixels of the image.
        size: width and height of the image.
    """
    width, height = size
    for number, (left, top, right, bottom) in enumerate(values[:, :4].tolist(), start=1):
        for axis, low, high, side in (("x", left, right, width), ("y", top, bottom, height)):
            is_inside = low >= -TOLERANCE_PX and high <= side + TOLERANCE_PX
            if not (is_inside and max(low, 0) < min(high, side)):
                raise BoxError(
                    f"its box {number} is from {axis} = {low:g} to {high:g}, and the image has "
                    f"{side} px"
                )


def _size_of(image: bytes) -> tuple[int, int]:
    from PIL import Image  # imported here: opening a beton does not need it

    with Image.open(io.BytesIO(image)) as opened:
        return opened.size
