"""Copy the samples of a subset from one `.beton` file to another without decoding.

The result equals, byte for byte, the file that `write_split` writes from the images. The order of a
file is drawn from the sample ids, so a subset keeps the order of the whole dataset. Both files are
therefore processed front to back. Samples that are adjacent in both files are copied together by
the operating system. Digests are copied, too, so that damage of an image remains detectable.

There is one exception: `write_split` reserves rows for images that it then skips as damaged, so
that its first page may start later than in a copy.

Memory: 96 bytes per sample of either file, and 1 MB.
"""

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from writers.beton.atomic_file import NewBeton, new_beton
from writers.beton.layout import Layout, digest_of, write_at
from writers.beton.manifest_fields import file_fields, name_of
from writers.beton.selection import check_classes, class_counts
from writers.beton.store import Beton, Manifest, Progress, has_fields_of, open_beton
from writers.beton.writeback import DiskWriter
from writers.errors import UserError
from writers.subset.spec import Subset

CHUNK_BYTES = 2**20  # bytes per read if the system does not copy between files by itself
MAX_COPY_BYTES = 64 * 2**20  # approximate limit of bytes copied between two progress reports


def copy_subset(
    from_file: Path, subset: Subset, out_file: Path, *, progress: Progress | None = None
) -> Manifest:
    """Copy the samples of `subset` with their new labels; the manifest names the input beton.

    Image bytes are not checked; use `verify` on either file.

    Raises:
        UserError: the beton does not open or its images have several labels; a class of the subset
            has no image; or `out_file` is the input or cannot be written.
    """
    beton = open_beton(from_file)
    _refuse_what_cannot_be_copied(beton, out_file)
    manifest = beton.manifest
    positions, labels = subset.select(manifest.split, manifest.classes, beton.labels, beton.ids)
    counts = class_counts(labels, len(subset.classes))
    check_classes(
        subset,
        counts,
        manifest.split,
        str(from_file),
        has_accepted_differences=bool(manifest.differences),
    )
    with new_beton(out_file) as new:
        layout = lay_out(beton, positions, labels)
        copy_samples(beton, positions, layout, new, progress=progress)
        copied = Manifest.sealed(
            **_inherited(manifest),
            name=name_of(manifest.dataset, subset),
            classes=list(subset.classes),
            class_counts=counts.tolist(),
            copied_from={"file": from_file.name, "sha256": manifest.sha256},
            subset={
                "name": subset.name,
                "num_classes": len(subset.classes),
                "digest": subset.digest,
            },
            skipped=_skipped(manifest, subset, beton.labels[positions], labels),
            **file_fields(layout, new),
        )
        new.publish(copied)
    return copied


def _refuse_what_cannot_be_copied(beton: Beton, out_file: Path) -> None:
    if beton.manifest.multi_label:
        raise UserError(
            f"An image of {beton.path} has several labels; "
            "a subset of its classes cannot be taken.",
            "Use the whole beton.",
        )
    if not has_fields_of(beton):
        raise UserError(
            f"{beton.path} is damaged: its samples are not an image and a label.",
            "Write it again with `harness write-beton`.",
        )
    if out_file.exists() and out_file.samefile(beton.path):
        raise UserError(f"{out_file} is the input file.", "Write elsewhere with --out.")


class BetonChangedError(OSError):
    """The input beton does not match its tables."""


def lay_out(
    beton: Beton, positions: np.ndarray, labels: np.ndarray, *, capacity: int | None = None
) -> Layout:
    """Lay out a file of some samples of a beton.

    Args:
        beton: the input.
        positions: positions of the samples in the input, int64 [M].
        labels: new labels of the samples, int64 [M].
        capacity: number of samples to reserve space for. None means M.
    """
    layout = Layout(capacity or len(positions))
    rows, sizes, ids = beton.rows[positions], beton.sizes[positions], beton.ids[positions]
    columns = (rows["mode"], rows["width"], rows["height"], sizes, labels, ids)
    lists = [column.tolist() for column in columns]
    for mode, width, height, size, label, sample_id, digest in zip(
        *lists, beton.digests[positions], strict=True
    ):
        layout.add(mode, width, height, layout.place(size), label, sample_id, digest.tobytes())
    return layout


def copy_samples(
    beton: Beton,
    positions: np.ndarray,
    layout: Layout,
    new: NewBeton,
    *,
    check: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a new file of this layout with the samples at `positions` (int64 [M], ascending).

    `check` compares each sample with its digest before it is copied. Raises BetonChangedError if a
    sample differs or the input ends too early.
    """
    origins = beton.rows["offset"][positions].astype(np.int64)
    offsets = layout.rows["offset"].astype(np.int64)
    sizes = beton.sizes[positions]
    with open_samples(beton) as file, DiskWriter(new.handle) as disk:
        layout.write_tables(new.handle)
        begin = 0
        for end in _run_ends(origins, offsets, sizes):
            if progress is not None:
                progress(begin, len(sizes))
            if check:  # just before the copy, so that the disk is read only once
                check_samples(beton, positions[begin:end], file.fileno())
            _copy_run(
                file.fileno(),
                new.handle,
                int(origins[begin]),
                int(offsets[begin]),
                int(offsets[end - 1] + sizes[end - 1]),
                disk,
            )
            begin = end
        disk.finish()
    if progress is not None:
        progress(len(sizes), len(sizes))


def open_samples(beton: Beton) -> BinaryIO:
    """Open the file for reading samples. Raises BetonChangedError if it no longer exists."""
    try:
        return beton.path.open("rb", buffering=0)
    except OSError as error:
        raise BetonChangedError(f"It cannot be read: {error.strerror}.") from error


def check_samples(
    beton: Beton, positions: np.ndarray, handle: int, progress: Progress | None = None
) -> None:
    """Compare the samples at `positions`, int64 [M], of an open file with their digests.

    Raises BetonChangedError.
    """
    offsets, sizes = beton.rows["offset"][positions].tolist(), beton.sizes[positions].tolist()
    for number, (position, offset, size) in enumerate(
        zip(positions.tolist(), offsets, sizes, strict=True)
    ):
        if progress is not None:
            progress(number, len(sizes))
        try:
            data = os.pread(handle, size, offset)
        except OSError as error:
            raise BetonChangedError(
                f"Sample {position} cannot be read: {error.strerror}."
            ) from error
        if digest_of(data) != beton.digests[position].tobytes():
            raise BetonChangedError(f"The bytes of sample {position} have changed.")


def _run_ends(origins: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> list[int]:
    """Return the end index of each run of samples that are adjacent in both files.

    A run has at most about MAX_COPY_BYTES.

    Args:
        origins: int64 [M], first byte of each sample in the input.
        offsets: int64 [M], first byte of each sample in the copy.
        sizes: int64 [M], number of bytes of each sample.
    """
    apart = (origins[1:] != origins[:-1] + sizes[:-1]) | (offsets[1:] != offsets[:-1] + sizes[:-1])
    apart |= np.diff(np.cumsum(sizes) // MAX_COPY_BYTES) > 0
    return [*(np.flatnonzero(apart) + 1).tolist(), len(sizes)]


def _copy_run(
    source: int, target: int, origin: int, offset: int, end: int, disk: DiskWriter
) -> None:
    """Copy from `origin` in the input to `offset` in the output, up to `end`."""
    while offset < end:
        num_copied = _copy_bytes(source, origin, target, offset, end - offset)
        origin, offset = origin + num_copied, offset + num_copied
        disk.advance(offset)


def _copy_bytes(source: int, origin: int, target: int, offset: int, count: int) -> int:
    """Copy up to `count` bytes and return how many.

    Raises OSError, and BetonChangedError if the input has ended.
    """
    try:
        num_copied = os.copy_file_range(source, target, count, origin, offset)
    except OSError as error:
        if error.errno not in (
            errno.EXDEV,
            errno.ENOSYS,
            errno.EINVAL,
            errno.EOPNOTSUPP,
            errno.EBADF,
        ):
            raise
        # the file system does not support copy_file_range
        data = os.pread(source, min(count, CHUNK_BYTES), origin)
        write_at(target, data, offset)
        num_copied = len(data)
    if not num_copied:
        raise BetonChangedError(f"the input ends at byte {origin:,}")
    return num_copied


def _inherited(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest fields that a copy inherits."""
    same = (
        "dataset",
        "split",
        "encoding",
        "protocol",
        "differences",
        "source",
        "seed",
        "created_by",
    )
    return {name: getattr(manifest, name) for name in same}


def _skipped(
    manifest: Manifest, subset: Subset, old_labels: np.ndarray, labels: np.ndarray
) -> list[dict[str, str]]:
    """List the skipped images of the subset's classes, with their new class names.

    Args:
        manifest: manifest of the input, which lists its skipped images.
        subset: the subset that is copied.
        old_labels: int64 [M], labels of the copied samples in the input.
        labels: int64 [M], their labels in the subset.
    """
    pairs = set(zip(old_labels.tolist(), labels.tolist(), strict=True))
    renamed = {manifest.classes[old]: subset.classes[new] for old, new in pairs}
    return [
        entry | {"class": renamed[entry["class"]]}
        for entry in manifest.skipped
        if entry["class"] in renamed
    ]
