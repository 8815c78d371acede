"""What is wrong with a beton, in words: changed bytes, tables that contradict each other, images that do not decode."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from writers import turbojpeg
from writers.encode import JPEG, RAW
from writers.errors import UserError
from writers.layout import SAMPLE
from writers.store import Beton, Manifest, Progress, has_fields_of, not_whole, open_beton, read_manifest

SAMPLES_AT_ONCE = 64        # decoded by a thread before it looks for more


def verify(path: Path | str, progress: Progress | None = None, *, part: tuple[int, int] = (1, 1),
           num_threads: int | None = None) -> list[str]:
    """Everything that is wrong with a beton; an empty list: nothing.

    Reads the file once, group of pages by group: hashes each, and decodes its images with libjpeg-turbo, whose warnings are
    problems as they are errors for the loaders. `part` (2, 8): only the second eighth of the groups, and the tables; eight
    machines may share a check. Memory: two groups of 64 MiB, and the images that `num_threads` (default: the machine's cores)
    decode.
    """
    path = Path(path)
    try:
        manifest = read_manifest(path)
        if path.stat().st_size != manifest.bytes:
            raise not_whole(path, f"it is {path.stat().st_size:,} bytes, and should be {manifest.bytes:,}")
    except UserError as error:
        return [error.message]
    except OSError as error:
        return [f"{path} cannot be read: {error.strerror or error}"]
    beton, problems = _opened(path)
    groups = _groups(manifest, part)
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(num_threads or len(os.sched_getaffinity(0))) as pool:
        for number in groups:
            begin, end = number * manifest.group_bytes, min((number + 1) * manifest.group_bytes, manifest.bytes)
            runs = [] if beton is None else list(_runs(beton, begin, end))
            data = _read(file.fileno(), begin, max([end, *(_last_byte(beton, run) for run in runs if beton is not None)]))
            digest = pool.submit(hashlib.sha256, data[:end - begin])
            decoded = [pool.submit(_image_problems, beton, data, begin, run) for run in runs if beton is not None]
            if digest.result().hexdigest() != manifest.group_sha256[number]:
                problems.append(f"bytes {begin:,} to {end - 1:,} have changed: part {number + 1} of "
                                f"{len(manifest.group_sha256)}, with {_samples(beton, begin, end)}")
            for future in decoded:
                problems += future.result()
            if progress is not None:
                progress(end - groups.start * manifest.group_bytes, _num_bytes(manifest, groups))
    return problems


def _opened(path: Path) -> tuple[Beton | None, list[str]]:
    """The beton, where its tables are such that its images can be found, and what is wrong with them."""
    try:
        beton = open_beton(path)
        if not has_fields_of(beton):
            return None, ["its fields are not an image and a label"]
        assert len(beton.sizes) == len(beton.rows)
    except UserError as error:
        return None, [error.message]
    return beton, list(_label_problems(beton))


def _groups(manifest: Manifest, part: tuple[int, int]) -> range:
    number, parts = part
    if not 1 <= number <= parts:
        raise UserError(f"There is no part {number} of {parts}.", "The first is 1/8, the last is 8/8, for example.")
    total = len(manifest.group_sha256)
    return range((number - 1) * total // parts, number * total // parts)


def _num_bytes(manifest: Manifest, groups: range) -> int:
    return min(groups.stop * manifest.group_bytes, manifest.bytes) - groups.start * manifest.group_bytes


def _read(handle: int, begin: int, end: int) -> memoryview:
    data = memoryview(bytearray(end - begin))
    done = 0
    while done < len(data) and (num_read := os.preadv(handle, [data[done:]], begin + done)):
        done += num_read
    return data


def _runs(beton: Beton, begin: int, end: int) -> Iterator[np.ndarray]:
    """The samples whose images begin there, some at a time, in the order in which they lie: int64."""
    offsets = beton.rows["offset"]
    inside = np.flatnonzero((offsets >= begin) & (offsets < end))
    inside = inside[np.argsort(offsets[inside], kind="stable")]
    for start in range(0, len(inside), SAMPLES_AT_ONCE):
        yield inside[start:start + SAMPLES_AT_ONCE]


def _samples(beton: Beton | None, begin: int, end: int) -> str:
    """How many samples are concerned, in words."""
    if beton is None:
        return "samples that cannot be told"
    offsets = beton.rows["offset"]
    number = int(((offsets < end) & (offsets + beton.sizes.astype(np.uint64) > begin)).sum())
    return f"{number:,} of its {len(offsets):,} samples"


def _last_byte(beton: Beton, run: np.ndarray) -> int:
    """Where the last of these images ends: behind its group only where a page is larger than a group."""
    return int((beton.rows["offset"][run].astype(np.int64) + beton.sizes[run]).max())


def _image_problems(beton: Beton, data: memoryview, begin: int, numbers: np.ndarray) -> list[str]:
    problems = []
    for number in numbers.tolist():
        row = beton.rows[number]
        start = int(row["offset"]) - begin
        if problem := _image_problem(row, data[start:start + int(beton.sizes[number])]):
            problems.append(f"sample {number} (label {row['label']}): {problem}")
    return problems


def _image_problem(row: np.void, data: memoryview) -> str:
    assert row.dtype == SAMPLE
    stated = int(row["width"]), int(row["height"])
    if row["mode"] == RAW:
        return "" if len(data) == 3 * stated[0] * stated[1] else "its pixels are not as many as width x height"
    if row["mode"] != JPEG:
        return f"its mode is {row['mode']}, neither JPEG (0) nor raw (1)"
    jpeg = bytes(data)
    try:
        size = turbojpeg.check(jpeg)
    except turbojpeg.JpegError as error:
        return f"its JPEG does not decode: {error}"
    return "" if size == stated else f"it is {size} pixels, and should be {stated}"


def _label_problems(beton: Beton) -> Iterator[str]:
    num_classes = len(beton.manifest.classes)
    try:
        labels = beton.labels
    except UserError as error:
        yield error.message
        return
    if beton.manifest.multi_label:
        if not np.isin(labels, (-1, 0, 1)).all():
            yield "it has labels that are none of -1, 0 and 1"
        elif (labels == 1).sum(0).tolist() != beton.manifest.class_counts:
            yield "its labels are not as many of each class as the manifest says"
        return
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        yield f"sample {outside[0]} has label {labels[outside[0]]}; there are {num_classes} classes"
    elif np.bincount(labels, minlength=num_classes).tolist() != beton.manifest.class_counts:
        yield "its labels are not as many of each class as the manifest says"
