"""Writes one split of a dataset as a beton: whole under its final name, or not at all; the same bytes every time.

Threads encode (Pillow lets go of Python's lock), the calling thread appends in order, so that the bytes do not depend on
the number of threads. Everything goes to a temporary file in the same folder. When it is complete and on the disk, an older
beton of that name is removed, the manifest gets its name, and then the beton: killed at any point, there is never a beton
that is not whole, nor one beside another's manifest.

Memory: the encoded images of at most 4 per thread, one page, and 48 bytes a sample.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from writers.encode import JPEG, Blob, Encoding, Unreadable, encode
from writers.errors import UserError
from writers.source import Example, Source
from writers.store import (
    BLOB,
    FIELD,
    FIELDS,
    FIRST_ROW,
    HEADER,
    SAMPLE,
    VERSION,
    Manifest,
    Progress,
    file_digest,
    manifest_path,
)
from writers.subset import Subset

CREATED_BY = "harness writers 1"    # the number rises when the same input would give other bytes
PAGE_SIZE = 8 * 2**20       # FFCV's default
SMALL_PAGE_SIZE = 2 * 2**20     # its smallest; for sets of few samples, whose first page is mostly padding
FEW_SAMPLES = 10_000
AHEAD_PER_THREAD = 4
MAX_OFFENDERS = 20          # unreadable images listed before the write gives up


def write_split(source: Source, split: str, subset: Subset, encoding: Encoding, out_file: Path, *, seed: int = 0,
                num_threads: int | None = None, progress: Progress | None = None,
                on_error: Literal["fail", "skip"] = "fail") -> Manifest:
    """Write the images of `split` that are of the subset's classes to `out_file`, and the manifest beside it.

    `seed` decides the order in the file and the draws of a mixed encoding. With on_error "skip" an unreadable image is left
    out and named in the manifest. Raises UserError, naming the files, for unreadable images, a training class without
    images, a folder that cannot be written, and a full disk; then nothing is left behind.
    """
    out_file = Path(out_file)
    examples = _chosen(source, split, subset, seed)
    page_size = PAGE_SIZE if len(examples) >= FEW_SAMPLES else SMALL_PAGE_SIZE
    with _disk_errors(out_file):
        out_file.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(out_file)
        while True:
            try:
                return _write(source, split, subset, encoding, out_file, examples, seed=seed, page_size=page_size,
                              num_threads=num_threads or _num_cores(), progress=progress, on_error=on_error)
            except _PageTooSmall as error:
                page_size = 1 << (error.needed - 1).bit_length()


def remove_stale(out_file: Path) -> None:
    """Remove the temporary files of writers that were killed; one that still writes holds a lock on its own."""
    for path in out_file.parent.glob(f".{out_file.name}.*.writing"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _temporary_manifest(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


@dataclass
class _Columns:
    """What is known of the samples written so far."""

    rows: list[tuple[int, int, int, int, int]] = field(default_factory=list)    # SAMPLE
    sizes: list[int] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


class _PageTooSmall(Exception):
    def __init__(self, needed: int) -> None:
        super().__init__(f"an image takes {needed} bytes")
        self.needed = needed


def _write(source: Source, split: str, subset: Subset, encoding: Encoding, out_file: Path, examples: Sequence[Example], *,
           seed: int, page_size: int, num_threads: int, progress: Progress | None, on_error: str) -> Manifest:
    handle, name = tempfile.mkstemp(dir=out_file.parent, prefix=f".{out_file.name}.", suffix=".writing")
    temporary = Path(name)
    temporary_manifest = _temporary_manifest(temporary)
    try:
        with os.fdopen(handle, "w+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            columns = _write_samples(file, source, encoding, examples, seed, page_size, num_threads, progress, on_error)
            file.flush()
            os.fsync(file.fileno())
            manifest = _manifest(source, split, subset, encoding, seed, page_size, columns, temporary)
            _write_durably(temporary_manifest, (manifest.model_dump_json(indent=1) + "\n").encode())
            temporary.chmod(0o644)
            out_file.unlink(missing_ok=True)
            temporary_manifest.replace(manifest_path(out_file))
            temporary.replace(out_file)
            _sync_folder(out_file.parent)
        return manifest
    except BaseException:
        temporary.unlink(missing_ok=True)
        temporary_manifest.unlink(missing_ok=True)
        raise


def _write_samples(file: BinaryIO, source: Source, encoding: Encoding, examples: Sequence[Example], seed: int,
                   page_size: int, num_threads: int, progress: Progress | None, on_error: str) -> _Columns:
    """The pages, then the table of blobs, then, at the front, the header and the rows."""
    columns = _Columns()
    offenders: list[str] = []
    offset = _round_up(FIRST_ROW + len(examples) * SAMPLE.itemsize, page_size)
    file.seek(offset)
    for number, (example, blob) in enumerate(_encoded(source, encoding, examples, seed, num_threads)):
        if progress is not None:
            progress(number, len(examples))
        if isinstance(blob, Unreadable):
            columns.skipped.append({"key": example.key, "reason": str(blob)})
            offenders.append(f"{source.where(example)}: {blob}")
            if on_error == "fail" and len(offenders) == MAX_OFFENDERS:
                break
            continue
        size = len(blob.data)
        if size > page_size:
            raise _PageTooSmall(size)
        if offset // page_size != (offset + size - 1) // page_size:
            offset = _round_up(offset, page_size)
            file.seek(offset)
        file.write(blob.data)
        columns.rows.append((blob.mode, blob.width, blob.height, offset, example.label))
        columns.sizes.append(size)
        offset += size
    if offenders and on_error == "fail":
        raise _unreadable(offenders)
    if not columns.rows:
        raise UserError(f"None of the {len(examples)} images of {source.name} can be read.", offenders[0])
    _write_tables(file, columns, _round_up(offset, page_size), page_size)
    if progress is not None:
        progress(len(examples), len(examples))
    return columns


def _encoded(source: Source, encoding: Encoding, examples: Sequence[Example], seed: int,
             num_threads: int) -> Iterator[tuple[Example, Blob | Unreadable]]:
    """Each example with what its image became, in order; `num_threads` work a little ahead."""

    def work(example: Example) -> Blob | Unreadable:
        try:
            return encode(source.read(example), encoding, example.key, seed)
        except Unreadable as error:
            return error
        except OSError as error:
            return Unreadable(f"it cannot be read: {error.strerror or error}")

    waiting: deque[tuple[Example, Future[Blob | Unreadable]]] = deque()
    pool = ThreadPoolExecutor(num_threads, "harness-encode")
    try:
        for example in examples:
            waiting.append((example, pool.submit(work, example)))
            if len(waiting) > num_threads * AHEAD_PER_THREAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_tables(file: BinaryIO, columns: _Columns, table_offset: int, page_size: int) -> None:
    rows = np.zeros(len(columns.rows), SAMPLE)      # zeros: the row has gaps, and the file must not depend on what lay there
    for name, values in zip(SAMPLE.names or (), zip(*columns.rows, strict=True), strict=True):
        rows[name] = values
    blobs = np.zeros(len(rows), BLOB)
    blobs["sample"], blobs["offset"], blobs["size"] = np.arange(len(rows)), rows["offset"], columns.sizes
    fields = np.zeros(len(FIELDS), FIELD)
    for number, (type_id, field_name) in enumerate(FIELDS):
        fields[number]["type"], fields[number]["name"] = type_id, field_name
    file.truncate(table_offset)
    file.seek(table_offset)
    file.write(blobs.tobytes())
    file.seek(0)
    file.write(np.array([(VERSION, len(FIELDS), page_size, len(rows), table_offset)], HEADER).tobytes())
    file.write(fields.tobytes())
    file.write(rows.tobytes())


def _chosen(source: Source, split: str, subset: Subset, seed: int) -> list[Example]:
    """The split's examples of the subset's classes, relabelled, in a seeded order that depends on their keys alone."""
    if split not in source.splits:
        raise UserError(f"{source.name} has no split {split}; it has {', '.join(source.splits)}.")
    new_label = {name: label for label, name in enumerate(subset.classes)}
    examples = [Example(example.key, label) for example in source.splits[split]
                if (label := new_label.get(source.classes[example.label])) is not None]
    empty = sorted(set(range(len(subset.classes))) - {example.label for example in examples})
    if not examples or (split == "train" and empty):
        names = ", ".join(subset.classes[label] for label in empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise UserError(f"Split {split} of {source.name} has no image of {len(empty)} of its {len(subset.classes)} classes: "
                        f"{names}.", "Each class needs at least one training image.")
    return sorted(examples, key=lambda example: hashlib.sha256(f"{seed}/order/{example.key}".encode()).digest())


def _manifest(source: Source, split: str, subset: Subset, encoding: Encoding, seed: int, page_size: int, columns: _Columns,
              file: Path) -> Manifest:
    rows = np.array(columns.rows, SAMPLE)
    counts = np.bincount(rows["label"], minlength=len(subset.classes)).tolist()
    num_jpeg = int((rows["mode"] == JPEG).sum())
    return Manifest(
        name=source.name if subset.name == "all" else f"{source.name}-{subset.name}", dataset=source.name, split=split,
        num_samples=len(rows), classes=list(subset.classes), class_counts=counts, encoding=encoding, source=source.origin,
        subset={"name": subset.name, "num_classes": len(subset.classes), "digest": subset.digest}, seed=seed,
        num_jpeg=num_jpeg, num_raw=len(rows) - num_jpeg, max_width=int(rows["width"].max()),
        max_height=int(rows["height"].max()), skipped=sorted(columns.skipped, key=lambda entry: entry["key"]),
        page_size=page_size, bytes=file.stat().st_size, sha256=file_digest(file), created_by=CREATED_BY)


def _unreadable(offenders: Sequence[str]) -> UserError:
    at_least = "At least " if len(offenders) == MAX_OFFENDERS else ""
    plural = "images" if len(offenders) > 1 else "image"
    return UserError(f"{at_least}{len(offenders)} {plural} cannot be read:\n  " + "\n  ".join(offenders),
                     "Mend or remove them, or write with --on-error skip: the manifest then names what was left out.")


@contextlib.contextmanager
def _disk_errors(out_file: Path) -> Iterator[None]:
    """What a person can put right about the disk, in words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"The disk that holds {out_file.parent} is full; {out_file.name} was not written.",
                            "Free some space, or write elsewhere with --out.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"{out_file.parent} cannot be written: {error.strerror}.",
                            "Write elsewhere with --out.") from error
        raise


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary_manifest(temporary: Path) -> Path:
    return temporary.with_suffix(".manifest")


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
