"""Copies the samples of a subset from one beton to another, without decoding: byte for byte what writing from the images gives.

The order in a file is a draw by the samples' ids, so a subset's order is that of the whole with gaps, and both files are gone
through from front to back. Samples that lie side by side in both are copied by the kernel in one go. Their digests are copied,
too: an image that was damaged in the one file is known to be so in the other. One exception to the first sentence: a file
written from images of which some were skipped may have its first page later, by the room that was kept for their rows.

Memory: 96 bytes a sample of either file, and 1 MB.
"""

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from writers.beton.layout import Layout, digest_of, write_at
from writers.beton.publish import NewBeton, new_beton
from writers.beton.store import Beton, Manifest, Progress, has_fields_of, open_beton
from writers.beton.write import class_counts, file_fields, missing_classes, name_of
from writers.beton.writeback import DiskWriter
from writers.errors import UserError
from writers.subset.spec import Subset

CHUNK_BYTES = 2**20
MOST_AT_ONCE = 64 * 2**20  # bytes, about, that the kernel copies before progress is told


def copy_subset(
    from_file: Path, subset: Subset, out_file: Path, *, progress: Progress | None = None
) -> Manifest:
    """Copy what `subset` takes of a beton, relabelled, and write a manifest that says where from.

    The images' bytes are taken as they are; `verify`, of either file, says whether they are still whole. Raises UserError as
    `write_split` does, for a beton that does not open, and for one whose images have many labels.
    """
    beton = open_beton(from_file)
    _refuse_what_cannot_be_copied(beton, out_file)
    manifest = beton.manifest
    positions, labels = subset.select(manifest.split, manifest.classes, beton.labels, beton.ids)
    counts = class_counts(labels, len(subset.classes))
    missing = missing_classes(subset, counts, manifest.split)
    if missing and not (counts.any() and manifest.differences):
        raise UserError(
            f"{from_file} has no image of {missing}.",
            "Each class needs at least one training image.",
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
            f"An image of {beton.path} has many labels; a subset of its classes cannot be taken."
        )
    if not has_fields_of(beton):
        raise UserError(
            f"{beton.path} is damaged: its samples are not an image and a label.",
            "Write it again with `harness write-beton`.",
        )
    if out_file.exists() and out_file.samefile(beton.path):
        raise UserError(f"{out_file} is the file to copy from.", "Write elsewhere with --out.")


class BetonChanged(OSError):
    """The beton to copy from is not, or no longer, what its tables say."""


def lay_out(
    beton: Beton, positions: np.ndarray, labels: np.ndarray, *, capacity: int | None = None
) -> Layout:
    """Of a file with these samples (int64 [M]) under these labels. `capacity`: samples that it has room for; None: M."""
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
    """Fill a new file of that layout with the samples at these positions: int64 [M], rising.

    `check`: hold each sample against its digest first. Raises BetonChanged where it does not fit, and for a file that ends
    too soon.
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
            if check:  # just before they are copied: they are read from the disk once
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
    """The file, to read samples from. Raises BetonChanged where it is gone."""
    try:
        return beton.path.open("rb", buffering=0)
    except OSError as error:
        raise BetonChanged(f"It cannot be read: {error.strerror}.") from error


def check_samples(
    beton: Beton, positions: np.ndarray, handle: int, progress: Progress | None = None
) -> None:
    """Hold samples in the open file against their digests. Raises BetonChanged for the first that does not fit."""
    offsets, sizes = beton.rows["offset"][positions].tolist(), beton.sizes[positions].tolist()
    for number, (position, offset, size) in enumerate(
        zip(positions.tolist(), offsets, sizes, strict=True)
    ):
        if progress is not None:
            progress(number, len(sizes))
        try:
            data = os.pread(handle, size, offset)
        except OSError as error:
            raise BetonChanged(f"Sample {position} cannot be read: {error.strerror}.") from error
        if digest_of(data) != beton.digests[position].tobytes():
            raise BetonChanged(f"The bytes of sample {position} have changed.")


def _run_ends(origins: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> list[int]:
    """Where runs of samples end that lie side by side in both files, and are not much more than are copied at once."""
    apart = (origins[1:] != origins[:-1] + sizes[:-1]) | (offsets[1:] != offsets[:-1] + sizes[:-1])
    apart |= np.diff(np.cumsum(sizes) // MOST_AT_ONCE) > 0
    return [*(np.flatnonzero(apart) + 1).tolist(), len(sizes)]


def _copy_run(
    source: int, target: int, origin: int, offset: int, end: int, disk: DiskWriter
) -> None:
    """From `origin` in the one file to `offset` in the other, as far as to `end` there."""
    while offset < end:
        num_copied = _copy_bytes(source, origin, target, offset, end - offset)
        origin, offset = origin + num_copied, offset + num_copied
        disk.advance(offset)


def _copy_bytes(source: int, origin: int, target: int, offset: int, count: int) -> int:
    """Copy up to `count` bytes; returns how many. Raises OSError."""
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
        data = os.pread(
            source, min(count, CHUNK_BYTES), origin
        )  # a file system for which the kernel does not copy
        write_at(target, data, offset)
        num_copied = len(data)
    if not num_copied:
        raise BetonChanged(f"the file to copy from ends at byte {origin:,}")
    return num_copied


def _inherited(manifest: Manifest) -> dict[str, Any]:
    """What is as true of the copy."""
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
    """The unreadable images of the classes that the subset takes, under their new names."""
    pairs = set(zip(old_labels.tolist(), labels.tolist(), strict=True))
    renamed = {manifest.classes[old]: subset.classes[new] for old, new in pairs}
    return [
        entry | {"class": renamed[entry["class"]]}
        for entry in manifest.skipped
        if entry["class"] in renamed
    ]
