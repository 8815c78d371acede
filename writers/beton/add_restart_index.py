"""Gives the JPEGs of a beton a restart index: the same samples, ids and pixels in a new file, which loaders read faster."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from writers.beton.encoding import JPEG
from writers.beton.layout import Layout, digest_of, write_at
from writers.beton.publish import new_beton
from writers.beton.store import Beton, Manifest, Progress, open_beton
from writers.beton.write import file_fields
from writers.beton.writeback import DiskWriter
from writers.errors import UserError
from writers.jpeg.restart_index import DamagedJpeg, add_restart_index

IMAGES_AT_ONCE = 16
AHEAD_PER_THREAD = 4


def add_index(
    from_file: Path, out_file: Path, *, num_threads: int = 1, progress: Progress | None = None
) -> Manifest:
    """Write `from_file` anew with a restart index in each of its JPEGs that can have one.

    Memory: the images of 64 per thread. Raises UserError for a beton that does not open, has no JPEG without an index, or has
    a damaged one; and as `write_split` does for the disk.
    """
    beton = open_beton(from_file)
    manifest = beton.manifest
    if manifest.multi_label:
        raise UserError(
            f"An image of {beton.path} has many labels; such a beton is written anew from its images."
        )
    if manifest.encoding.restart_index or not manifest.num_jpeg:
        raise UserError(
            f"{beton.path} has {'a restart index already' if manifest.num_jpeg else 'no JPEG in it'}."
        )
    if out_file.exists() and out_file.samefile(beton.path):
        raise UserError(f"{out_file} is the file to read from.", "Write elsewhere with --out.")
    with new_beton(out_file) as new, DiskWriter(new.handle) as disk:
        layout = Layout(manifest.num_samples)
        rows, ids = beton.rows, beton.ids
        for number, (data, digest) in enumerate(_indexed(beton, num_threads)):
            if progress is not None:
                progress(number, manifest.num_samples)
            offset, row = layout.place(len(data)), rows[number]
            layout.add(
                int(row["mode"]),
                int(row["width"]),
                int(row["height"]),
                offset,
                int(row["label"]),
                int(ids[number]),
                digest,
            )
            write_at(new.handle, data, offset)
            disk.advance(layout.end)
        layout.write_tables(new.handle)
        disk.finish()
        kept = {name: getattr(manifest, name) for name in _KEPT}
        encoding = manifest.encoding.model_copy(update={"restart_index": True})
        written = Manifest.sealed(
            **kept,
            encoding=encoding,
            **file_fields(layout, new),
            copied_from={"file": from_file.name, "sha256": manifest.sha256},
        )
        new.publish(written)
    if progress is not None:
        progress(manifest.num_samples, manifest.num_samples)
    return written


_KEPT = (
    "name",
    "dataset",
    "split",
    "classes",
    "class_counts",
    "protocol",
    "differences",
    "source",
    "subset",
    "seed",
    "skipped",
    "created_by",
)


def _indexed(beton: Beton, num_threads: int) -> Iterator[tuple[bytes, bytes]]:
    """Every image, JPEGs with their index, and its digest, in the order of the file; `num_threads` work a little ahead."""
    rows, sizes = beton.rows, beton.sizes

    def work_through(begin: int) -> list[tuple[bytes, bytes]]:
        return [one(number) for number in range(begin, min(begin + IMAGES_AT_ONCE, len(rows)))]

    def one(number: int) -> tuple[bytes, bytes]:
        data = os.pread(file.fileno(), int(sizes[number]), int(rows["offset"][number]))
        digest = beton.digests[number].tobytes()
        try:
            if digest_of(data) != digest:
                raise DamagedJpeg("its bytes have changed")
            if rows["mode"][number] != JPEG:
                return data, digest
            indexed = add_restart_index(data)
            return indexed, digest_of(indexed)
        except DamagedJpeg as error:
            raise UserError(
                f"Sample {number} of {beton.path} is damaged: {error}.",
                "Write the beton again from its images.",
            ) from error

    waiting: deque[Future[list[tuple[bytes, bytes]]]] = deque()
    with (
        beton.path.open("rb", buffering=0) as file,
        ThreadPoolExecutor(num_threads, "harness-index") as pool,
    ):
        try:
            for begin in range(0, len(rows), IMAGES_AT_ONCE):
                waiting.append(pool.submit(work_through, begin))
                if len(waiting) >= num_threads * AHEAD_PER_THREAD:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
