"""Find damage in a `.beton` file: changed bytes, contradicting tables, damaged images."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from writers.beton.boxes import check_places
from writers.beton.encoding import DCT, JPEG, RAW
from writers.beton.layout import digest_of
from writers.beton.store import SMALL_FILE, Beton, Progress, has_fields_of, open_beton
from writers.dct import blob as dct
from writers.errors import UserError
from writers.jpeg import turbojpeg
from writers.text_names import counted

WINDOW_BYTES = 64 * 2**20  # bytes of the file that are read at once
SAMPLES_AT_ONCE = 64  # samples per task of a thread


def verify(
    path: Path | str,
    progress: Progress | None = None,
    *,
    part: tuple[int, int] = (1, 1),
    num_threads: int | None = None,
) -> list[str]:
    """List all problems of a beton; an empty list means that `part` is intact.

    Opening the beton verifies its tables. Then each sample's bytes are compared with their digest,
    and images are decoded; warnings of libjpeg-turbo are problems. Bytes between samples must be
    zero, except in betons that stock FFCV wrote, where they are not checked. A problem of a sample
    begins with its number.

    Args:
        path: the beton.
        progress: called with the number of samples done and in total.
        part: (2, 8) checks the second of eight parts of the samples; eight machines can then share
            the work.
        num_threads: None uses all cores.

    Memory: two windows of 64 MiB (or two samples if they are larger), and the images that are
    decoded.
    """
    try:
        beton = open_beton(path)
        if not has_fields_of(beton):
            return ["its fields are not an image and a label"]
        order = _parts_order(beton, part)
    except UserError as error:
        return [error.message]
    problems = list(_label_problems(beton))
    if not beton.manifest.adopted:  # FFCV does not define the bytes between samples
        problems += _zero_problems(beton, part)
    if beton.has_boxes:
        problems += _box_problems(beton)
    stored = _StoredLabels.of(beton)
    done = 0
    with (
        beton.path.open("rb", buffering=0) as file,
        ThreadPoolExecutor(num_threads or len(os.sched_getaffinity(0))) as pool,
    ):
        for window in _windows(beton, order):
            begin = int(beton.rows["offset"][window[0]])
            end = int((beton.rows["offset"][window].astype(np.int64) + beton.sizes[window]).max())
            data = _read(file.fileno(), begin, end)
            boxes = _box_blobs(beton, file.fileno(), window) if stored.is_readable else {}
            runs = [
                window[start : start + SAMPLES_AT_ONCE]
                for start in range(0, len(window), SAMPLES_AT_ONCE)
            ]
            for found in pool.map(partial(_problems, beton, stored, boxes, data, begin), runs):
                problems += found
            done += len(window)
            if progress is not None:
                progress(done, len(order))
    if beton.manifest.bytes <= SMALL_FILE and part == (1, 1) and not problems:
        problems += _whole_problems(beton)
    return problems


def _parts_order(beton: Beton, part: tuple[int, int]) -> np.ndarray:
    """Return the samples of a part, int64 [M], in the order of their offsets in the file.

    `part` is (number, parts): part `number`, counted from 1, of `parts`. Raises UserError if there
    is no such part.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise UserError(
            f"There is no part {number} of {parts}.",
            "With eight parts, the first is 1/8 and the last 8/8.",
        )
    order = np.argsort(beton.rows["offset"], kind="stable")
    assert len(beton.sizes) == len(order)  # `sizes` raises if tables do not match
    return order[_share(len(order), part)]


def _share(total: int, part: tuple[int, int]) -> slice:
    number, parts = part
    return slice((number - 1) * total // parts, number * total // parts)


def _windows(beton: Beton, order: np.ndarray) -> Iterator[np.ndarray]:
    """Split `order`, int64 [M], into groups of samples that start within WINDOW_BYTES."""
    offsets = beton.rows["offset"][order].astype(np.int64)
    begin = 0
    while begin < len(order):
        end = int(np.searchsorted(offsets, offsets[begin] + WINDOW_BYTES))
        yield order[begin:end]
        begin = end


def _read(handle: int, begin: int, end: int) -> memoryview:
    """Read the bytes from offset `begin` up to `end`, or fewer at the end of the file."""
    data = memoryview(bytearray(end - begin))
    done = 0
    while done < len(data) and (num_read := os.preadv(handle, [data[done:]], begin + done)):
        done += num_read
    return data[:done]


@dataclass(frozen=True)
class _StoredLabels:
    """Labels that are stored as blobs, which the digests of the samples include.

    Attributes:
        labels: int8 [N, K]. None means one label per image, which is in the row, or labels that
            cannot be read.
        is_readable: False if labels or boxes are outside of the file, so that digests cannot be
            compared.
    """

    labels: np.ndarray | None
    is_readable: bool

    @classmethod
    def of(cls, beton: Beton) -> Self:
        if not beton.manifest.multi_label:
            return cls(None, is_readable=True)
        try:
            if beton.has_boxes:
                check_places(beton.rows, (beton.manifest.rows_end, beton.manifest.pages_end))
            return cls(beton.labels, is_readable=True)
        except (UserError, ValueError):  # the checks of labels and boxes report the problem
            return cls(None, is_readable=False)


def _box_blobs(beton: Beton, handle: int, numbers: np.ndarray) -> dict[int, memoryview]:
    """Return number of a sample -> bytes of its boxes; {} if the beton has no boxes.

    `numbers`, int64 [n], are the samples to read.
    """
    if not beton.has_boxes:
        return {}
    offsets, sizes = beton.rows["boxes_offset"], beton.rows["boxes_size"]
    return {
        number: _read(handle, offset, offset + size)
        for number, offset, size in zip(
            numbers.tolist(), offsets[numbers].tolist(), sizes[numbers].tolist(), strict=True
        )
    }


def _problems(
    beton: Beton,
    labels: _StoredLabels,
    boxes: dict[int, memoryview],
    data: memoryview,
    begin: int,
    numbers: np.ndarray,
) -> list[str]:
    """List the problems of the samples `numbers`, int64 [n].

    `data` is the file from offset `begin` on; `boxes` is the result of `_box_blobs`.
    """
    problems = []
    for number in numbers.tolist():
        row = beton.rows[number]
        start = int(row["offset"]) - begin
        image = data[start : start + int(beton.sizes[number])]
        found = []
        stored = [image] if labels.labels is None else [image, labels.labels[number].tobytes()]
        stored += [boxes[number]] if number in boxes else []
        if labels.is_readable and digest_of(*stored) != beton.digests[number].tobytes():
            found.append("its bytes have changed")
        if problem := _image_problem(row, image):
            found.append(problem)
        if found:
            name = (
                f"sample {number}"
                if beton.manifest.multi_label
                else f"sample {number} (label {row['label']})"
            )
            problems.append(f"{name}: {'; '.join(found)}")
    return problems


def _zero_problems(beton: Beton, part: tuple[int, int]) -> Iterator[str]:
    """Yield a problem for each gap between blobs, or at the end of a page, that is not all zero."""
    blobs = beton.blobs[np.argsort(beton.blobs["offset"], kind="stable")]
    pages_end = beton.manifest.pages_end
    ends = np.concatenate(
        [[beton.manifest.rows_end], (blobs["offset"] + blobs["size"]).astype(np.int64)]
    )
    begins = np.concatenate([blobs["offset"].astype(np.int64), [pages_end]])
    gaps = np.stack([np.maximum(ends, 0), np.minimum(begins, pages_end)], axis=1)
    gaps = gaps[gaps[:, 0] < gaps[:, 1]]
    with beton.path.open("rb", buffering=0) as file:
        for begin, end in gaps[_share(len(gaps), part)].tolist():
            for start in range(begin, end, WINDOW_BYTES):
                data = np.frombuffer(
                    _read(file.fileno(), start, min(end, start + WINDOW_BYTES)), np.uint8
                )
                if data.any():
                    offset = start + int(np.flatnonzero(data)[0])
                    yield f"byte {offset:,}, which belongs to no sample, is not zero"


def _whole_problems(beton: Beton) -> Iterator[str]:
    with beton.path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != beton.manifest.sha256:
            yield "its sha256 is not the manifest's"


def _image_problem(row: np.void, data: memoryview) -> str:
    stated = int(row["width"]), int(row["height"])
    if row["mode"] == RAW:
        return (
            ""
            if len(data) == 3 * stated[0] * stated[1]
            else "its pixels are not as many as width x height"
        )
    if row["mode"] == DCT:
        try:
            size = dct.check(bytes(data))
        except dct.DamagedBlobError as error:
            return f"its dct blob does not decode: {error}"
        return "" if size == stated else f"it is {size} pixels, and should be {stated}"
    if row["mode"] != JPEG:
        return f"its mode is {row['mode']}, neither JPEG (0) nor raw (1) nor dct (2)"
    jpeg = bytes(data)
    try:
        size = turbojpeg.check(jpeg)
    except turbojpeg.JpegError as error:
        return f"its JPEG does not decode: {error}"
    return "" if size == stated else f"it is {size} pixels, and should be {stated}"


def _box_problems(beton: Beton) -> Iterator[str]:
    try:
        assert len(beton.box_table.starts) == len(beton.rows) + 1
    except UserError as error:
        yield error.message


def _label_problems(beton: Beton) -> Iterator[str]:
    num_classes = len(beton.manifest.classes)
    try:
        labels = beton.labels
    except UserError as error:
        yield error.message
        return
    if beton.manifest.multi_label:
        if not np.isin(labels, (-1, 0, 1)).all():
            yield "it has labels other than -1, 0 and 1"
        elif (labels == 1).sum(0).tolist() != beton.manifest.class_counts:
            yield "its labels per class differ from the manifest"
        return
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = outside[0]
        yield (
            f"sample {first} has label {labels[first]}; the beton has "
            f"{counted(num_classes, 'class')}"
        )
    elif np.bincount(labels, minlength=num_classes).tolist() != beton.manifest.class_counts:
        yield "its labels per class differ from the manifest"
