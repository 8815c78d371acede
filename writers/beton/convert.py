"""Convert the images of a `.beton` file without changing a pixel.

JPEGs get a restart index (a table of offsets, for decoding only a crop) or become dct blobs
(coefficients without entropy code); dct blobs become JPEGs.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from writers.beton.atomic_file import new_beton
from writers.beton.encoding import DCT, JPEG
from writers.beton.layout import Layout, digest_of, write_at
from writers.beton.manifest_fields import file_fields
from writers.beton.store import Beton, Manifest, Progress, open_beton
from writers.beton.writeback import DiskWriter
from writers.dct import blob as dct
from writers.errors import UserError
from writers.jpeg.restart_index import DamagedJpegError, add_restart_index
from writers.map_ahead import map_ahead

IMAGES_AT_ONCE = 16  # images per task of a thread
AHEAD_PER_THREAD = 4  # tasks per thread that may be converted ahead of the writing


def add_index(
    from_file: Path, out_file: Path, *, num_threads: int = 1, progress: Progress | None = None
) -> Manifest:
    """Write a copy of `from_file` with a restart index in each JPEG that can have one.

    Memory: 64 images per thread.

    Raises:
        UserError: the beton does not open, has no JPEG, has a restart index already or several
            labels per image; a sample is damaged; or `out_file` is the input or cannot be written.
    """
    beton = open_beton(from_file)
    if beton.manifest.encoding.restart_index or not beton.manifest.num_jpeg:
        raise UserError(
            f"{beton.path} has "
            f"{'a restart index already' if beton.manifest.num_jpeg else 'no JPEG in it'}."
        )
    return _rewritten(
        beton,
        out_file,
        {"restart_index": True},
        lambda jpeg: (JPEG, add_restart_index(jpeg)),
        num_threads,
        progress,
    )


def to_dct(
    from_file: Path, out_file: Path, *, num_threads: int = 1, progress: Progress | None = None
) -> Manifest:
    """Write a copy of `from_file` with JPEGs as dct blobs (writers/dct), without decoding pixels.

    A JPEG that the dct format cannot store gets a restart index instead. Memory and errors
    (UserError) are those of `add_index`, except that the input may have a restart index.
    """
    beton = open_beton(from_file)
    if not beton.manifest.num_jpeg:
        raise UserError(
            f"{beton.path} has no JPEG in it.",
            "Raw images need no index; write them again to change the encoding.",
        )

    def stored(jpeg: bytes) -> tuple[int, bytes]:
        coefficients = dct.from_jpeg(jpeg)
        return (JPEG, add_restart_index(jpeg)) if coefficients is None else (DCT, coefficients)

    changed = {"format": "dct", "restart_index": True, "compress_probability": None}
    return _rewritten(beton, out_file, changed, stored, num_threads, progress)


def to_jpeg(
    from_file: Path, out_file: Path, *, num_threads: int = 1, progress: Progress | None = None
) -> Manifest:
    """Write a copy of `from_file` in which each dct blob becomes a JPEG with a restart index.

    Memory and errors (UserError) are those of `add_index`, but the input must have a dct blob, not
    a JPEG.
    """
    beton = open_beton(from_file)
    if not beton.manifest.num_dct:
        raise UserError(f"{beton.path} has no coefficients (--format dct) in it.")
    changed = {"format": "passthrough", "restart_index": True, "compress_probability": None}
    return _rewritten(
        beton,
        out_file,
        changed,
        lambda blob: (JPEG, add_restart_index(dct.to_jpeg(blob))),
        num_threads,
        progress,
        converts=DCT,
    )


def _rewritten(
    beton: Beton,
    out_file: Path,
    changed: dict[str, Any],
    stored: Callable[[bytes], tuple[int, bytes]],
    num_threads: int,
    progress: Progress | None,
    converts: int = JPEG,
) -> Manifest:
    """Write a copy of a beton in which the images of mode `converts` are converted.

    `stored` maps the bytes of an image of this mode to its new mode and bytes. Images of other
    modes are copied unchanged. `changed` contains the encoding settings that differ in the copy.
    Raises UserError as `add_index` does.
    """
    manifest = beton.manifest
    if manifest.multi_label:
        raise UserError(
            f"An image of {beton.path} has several labels; write such a beton again from its "
            "images."
        )
    if out_file.exists() and out_file.samefile(beton.path):
        raise UserError(f"{out_file} is the input file.", "Write elsewhere with --out.")
    with new_beton(out_file) as new, DiskWriter(new.handle) as disk:
        layout = Layout(manifest.num_samples)
        rows, ids = beton.rows, beton.ids
        for number, (mode, data, digest) in enumerate(
            _images(beton, stored, num_threads, converts)
        ):
            if progress is not None:
                progress(number, manifest.num_samples)
            offset, row = layout.place(len(data)), rows[number]
            layout.add(
                mode,
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
        encoding = manifest.encoding.model_copy(update=changed)
        written = Manifest.sealed(
            **kept,
            encoding=encoding,
            **file_fields(layout, new),
            copied_from={"file": beton.path.name, "sha256": manifest.sha256},
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


def _images(
    beton: Beton, stored: Callable[[bytes], tuple[int, bytes]], num_threads: int, converts: int
) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield mode, bytes and digest of each image in file order. Threads convert images ahead."""
    rows, sizes = beton.rows, beton.sizes

    def work_through(begin: int) -> list[tuple[int, bytes, bytes]]:
        return [reencode(number) for number in range(begin, min(begin + IMAGES_AT_ONCE, len(rows)))]

    def reencode(number: int) -> tuple[int, bytes, bytes]:
        data = os.pread(file.fileno(), int(sizes[number]), int(rows["offset"][number]))
        digest, mode = beton.digests[number].tobytes(), int(rows["mode"][number])
        try:
            if digest_of(data) != digest:
                raise DamagedJpegError("its bytes have changed")
            if mode != converts:
                return mode, data, digest
            mode, data = stored(data)
            return mode, data, digest_of(data)
        except (DamagedJpegError, dct.DamagedBlobError) as error:
            raise UserError(
                f"Sample {number} of {beton.path} is damaged: {error}.",
                "Write the beton again from its images.",
            ) from error

    with (
        beton.path.open("rb", buffering=0) as file,
        closing(  # before the file, which threads read
            map_ahead(
                work_through,
                range(0, len(rows), IMAGES_AT_ONCE),
                num_threads=num_threads,
                max_pending=num_threads * AHEAD_PER_THREAD - 1,
                name="harness-index",
            )
        ) as groups,
    ):
        for images in groups:
            yield from images
