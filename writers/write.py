"""Writes one split of a dataset as a beton: whole under its final name, or not at all; the same bytes every time.

Threads encode (Pillow lets go of Python's lock), the calling thread appends in order, so that the bytes do not depend on
the number of threads. Everything goes to a temporary file in the same folder. When it is complete and on the disk, an older
beton of that name is removed, the manifest gets its name, and then the beton: killed at any point, there is never a beton
that is not whole, nor one beside another's manifest. Of two writers of the same name the later one's pair remains.

Memory: the encoded images of at most 4 per thread, and 56 bytes a sample.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from writers.draws import draw, uniform
from writers.encode import JPEG, Blob, Encoding, Unreadable, encode
from writers.errors import UserError
from writers.lock import locked
from writers.source import Example, Source, ids_of
from writers.store import (
    BLOB,
    FIRST_ROW,
    ID,
    SAMPLE,
    Manifest,
    Progress,
    fields_of,
    file_digest,
    header_of,
    manifest_path,
)
from writers.subset import Subset

CREATED_BY = "harness writers 3"    # the number rises when the same input would give other bytes
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
    with _disk_errors(out_file):
        out_file.parent.mkdir(parents=True, exist_ok=True)
        if out_file.is_dir():
            raise UserError(f"{out_file} is a folder; the beton needs that name.", "Remove it, or write elsewhere with --out.")
        file = _open_temporary(out_file)
        temporary = Path(file.name)
        try:
            with file:
                tables = _write_samples(file, source, encoding, examples, seed, num_threads or _num_cores(), progress, on_error)
                file.flush()
                os.fsync(file.fileno())
                manifest = _manifest(source, split, subset, encoding, seed, examples, tables, temporary)
                _write_durably(_temporary_manifest(temporary), (manifest.model_dump_json(indent=1) + "\n").encode())
                _give_names(temporary, out_file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            _temporary_manifest(temporary).unlink(missing_ok=True)
            raise
    return manifest


def remove_stale(out_file: Path) -> None:
    """Remove the temporary files of writers that were killed; one that still writes holds a lock on its own."""
    for path in out_file.parent.glob(f".{out_file.name}.*.writing"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _temporary_manifest(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


class _Tables:
    """Of at most `capacity` samples: their rows, their places in the file, and the size of the pages these lie in.

    `blobs_per_sample`: 1, an image; 2, an image and its labels.
    """

    def __init__(self, capacity: int, blobs_per_sample: int) -> None:
        self._rows = np.zeros(capacity, SAMPLE)     # zeros: a row has gaps, and the file must not depend on what lay there
        self._blobs = np.zeros(capacity * blobs_per_sample, BLOB)
        self._ids = np.zeros(capacity, ID)
        self.num_samples = self._num_blobs = 0
        self.skipped: list[dict[str, str]] = []
        self.page_size = PAGE_SIZE if capacity >= FEW_SAMPLES else SMALL_PAGE_SIZE
        self.end = _round_up(FIRST_ROW + self._rows.nbytes, self.page_size)

    def place(self, size: int) -> int:
        """Where in the file so many bytes of the next sample go: after the last, or on the next page where they would cross.

        A blob larger than a page doubles the page size until it fits. What was placed before lies right in the larger
        pages, too: each is made of whole smaller ones.
        """
        self.page_size = max(self.page_size, 1 << (size - 1).bit_length())
        if self.end // self.page_size != (self.end + size - 1) // self.page_size:
            self.end = _round_up(self.end, self.page_size)
        offset = self.end
        self._blobs[self._num_blobs] = (self.num_samples, offset, size)
        self._num_blobs += 1
        self.end += size
        return offset

    def add(self, blob: Blob, offset: int, label: int, sample_id: np.uint64) -> None:
        """A sample whose image was placed at `offset`. label: its class, or where its labels were placed."""
        self._rows[self.num_samples] = (blob.mode, blob.width, blob.height, offset, label)
        self._ids[self.num_samples] = sample_id
        self.num_samples += 1

    @property
    def rows(self) -> np.ndarray:
        return self._rows[:self.num_samples]

    @property
    def blobs(self) -> np.ndarray:
        return self._blobs[:self._num_blobs]

    @property
    def ids(self) -> np.ndarray:
        return self._ids[:self.num_samples]


def _open_temporary(out_file: Path) -> BinaryIO:
    """A new file beside `out_file`, locked for as long as it is open."""
    with locked(out_file.parent):       # else another writer could take it for stale before it is locked
        remove_stale(out_file)
        file = out_file.with_name(f".{out_file.name}.{secrets.token_hex(8)}.writing").open("x+b")
        with contextlib.suppress(OSError):      # a file system without locks: then nothing is removed as stale either
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _give_names(temporary: Path, out_file: Path) -> None:
    """In this order: a beton has its name only beside its own manifest, and a manifest alone is no beton."""
    with locked(out_file.parent):
        out_file.unlink(missing_ok=True)
        _temporary_manifest(temporary).replace(manifest_path(out_file))
        temporary.replace(out_file)
    _sync_folder(out_file.parent)


def _write_samples(file: BinaryIO, source: Source, encoding: Encoding, examples: Sequence[Example], seed: int,
                   num_threads: int, progress: Progress | None, on_error: str) -> _Tables:
    """The pages, then the table of blobs, then, at the front, the header and the rows."""
    tables = _Tables(len(examples), 2 if source.multi_label else 1)
    offenders: list[str] = []
    ids = ids_of(examples)
    chances = uniform(draw(seed, "encode", ids))
    for number, (example, blob) in enumerate(_encoded(source, encoding, examples, chances, num_threads)):
        if progress is not None:
            progress(number, len(examples))
        if isinstance(blob, Unreadable):
            tables.skipped.append({"key": example.key, "reason": str(blob)})
            offenders.append(f"{source.where(example)}: {blob}")
            if on_error == "fail" and len(offenders) == MAX_OFFENDERS:
                break
            continue
        offset, label = _append(file, tables, blob.data), example.label
        if source.multi_label:
            label = _append(file, tables, np.array(example.labels, np.int8).tobytes())
        tables.add(blob, offset, label, ids[number])
    if offenders and on_error == "fail":
        raise _unreadable(offenders)
    if not tables.num_samples:
        raise UserError(f"None of the {len(examples)} images of {source.name} can be read.", offenders[0])
    _write_tables(file, tables, fields_of(len(source.classes) if source.multi_label else None))
    if progress is not None:
        progress(len(examples), len(examples))
    return tables


def _append(file: BinaryIO, tables: _Tables, data: bytes) -> int:
    offset = tables.place(len(data))
    file.seek(offset)
    file.write(data)
    return offset


def _encoded(source: Source, encoding: Encoding, examples: Sequence[Example], chances: np.ndarray,
             num_threads: int) -> Iterator[tuple[Example, Blob | Unreadable]]:
    """Each example with what its image became, in order; `num_threads` work a little ahead."""

    def work(example: Example, chance: float) -> Blob | Unreadable:
        try:
            return encode(source.read(example), encoding, chance)
        except Unreadable as error:
            return error
        except OSError as error:
            return Unreadable(f"it cannot be read: {error.strerror or error}")

    waiting: deque[tuple[Example, Future[Blob | Unreadable]]] = deque()
    pool = ThreadPoolExecutor(num_threads, "harness-encode")
    try:
        for example, chance in zip(examples, chances.tolist(), strict=True):
            waiting.append((example, pool.submit(work, example, chance)))
            if len(waiting) > num_threads * AHEAD_PER_THREAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_tables(file: BinaryIO, tables: _Tables, fields: np.ndarray) -> None:
    ids_offset = _round_up(tables.end, tables.page_size)
    table_offset = ids_offset + tables.ids.nbytes
    file.truncate(ids_offset)
    file.seek(ids_offset)
    file.write(tables.ids.tobytes())
    file.write(tables.blobs.tobytes())
    file.seek(0)
    file.write(header_of(tables.page_size, tables.num_samples, table_offset))
    file.write(fields.tobytes())
    file.write(tables.rows.tobytes())


def _chosen(source: Source, split: str, subset: Subset, seed: int) -> list[Example]:
    """The split's examples that the subset takes, relabelled, in a seeded order that depends on their names alone."""
    if split not in source.splits:
        raise UserError(f"{source.name} has no split {split}; it has {', '.join(source.splits)}.")
    if source.multi_label and list(subset.classes) != source.classes:
        raise UserError(f"An image of {source.name} has many labels; a subset of its classes cannot be taken.")
    there = source.splits[split]
    ids = ids_of(there)
    if len(np.unique(ids)) < len(ids):
        twice, _ = Counter(example.name for example in there).most_common(1)[0]
        raise UserError(f"{source.name} has two images called {twice} in {split}.", "Rename one of them.")
    positions, labels = subset.select(split, source.classes, np.array([example.label for example in there], np.int64), ids)
    positions_in_order = np.argsort(draw(seed, "order", ids[positions]), kind="stable")
    examples = [replace(there[positions[index]], label=int(labels[index])) for index in positions_in_order]
    empty = np.flatnonzero(_class_counts(examples, len(subset.classes)) == 0).tolist()
    if not examples or (split == "train" and empty):
        names = ", ".join(subset.classes[label] for label in empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise UserError(f"Split {split} of {source.name} has no image of {len(empty)} of its {len(subset.classes)} classes: "
                        f"{names}.", "Each class needs at least one training image.")
    return examples


def _class_counts(examples: Sequence[Example], num_classes: int) -> np.ndarray:
    """Examples of each class, or, where they have many labels, examples in which it is there: int64 [K]."""
    if examples and examples[0].labels is not None:
        return (np.array([example.labels for example in examples]) == 1).sum(0)
    return np.bincount(np.array([example.label for example in examples], np.int64), minlength=num_classes)


def _manifest(source: Source, split: str, subset: Subset, encoding: Encoding, seed: int, examples: Sequence[Example],
              tables: _Tables, file: Path) -> Manifest:
    rows = tables.rows
    skipped = {entry["key"] for entry in tables.skipped}
    counts = _class_counts([example for example in examples if example.key not in skipped], len(subset.classes)).tolist()
    num_jpeg = int((rows["mode"] == JPEG).sum())
    return Manifest(
        name=source.name if subset.name == "all" else f"{source.name}-{subset.name}", dataset=source.name, split=split,
        num_samples=len(rows), classes=list(subset.classes), multi_label=source.multi_label, class_counts=counts,
        encoding=encoding, source=source.origin, seed=seed,
        subset={"name": subset.name, "num_classes": len(subset.classes), "digest": subset.digest},
        num_jpeg=num_jpeg, num_raw=len(rows) - num_jpeg, max_width=int(rows["width"].max()),
        max_height=int(rows["height"].max()), skipped=sorted(tables.skipped, key=lambda entry: entry["key"]),
        page_size=tables.page_size, bytes=file.stat().st_size, sha256=file_digest(file), created_by=CREATED_BY)


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
