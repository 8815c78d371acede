"""Write a manifest for a `.beton` file that stock FFCV wrote. The beton itself is not changed.

Betons that this package writes contain a digest and an id per sample. Here, digests and ids are
stored in a file next to the manifest. An id is derived from the image's digest, so that it does not
depend on the order of the file. Equal images are numbered, so that their ids differ.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from writers.beton.atomic_file import as_json, write_durably
from writers.beton.encoding import JPEG, RAW, Encoding
from writers.beton.layout import (
    BLOB,
    DIGEST_BYTES,
    FIELD,
    FIRST_ROW,
    HEADER,
    ID,
    IMAGE_TYPE,
    INTEGER_TYPE,
    NUM_FIELDS,
    SAMPLE,
    VERSION,
    digest_of,
)
from writers.beton.manifest_fields import CREATED_BY
from writers.beton.store import SMALL_FILE, Manifest, Progress, manifest_path, samples_path
from writers.errors import UserError
from writers.regular_file import open_regular
from writers.subset.spec import everything
from writers.text_names import counted

MAX_CLASSES = 1_000_000  # labels must be below; larger numbers indicate damage
SAMPLES_AT_ONCE = 256  # samples per task of a thread
FIELD_NAMES = {  # FFCV's number of a field type -> its name in messages
    0: "a floating-point number",
    1: "an integer",
    2: "an image",
    3: "bytes",
    4: "an array",
    5: "JSON",
    6: "a tensor",
}


def _opened(file: Path) -> BinaryIO:
    try:
        return open_regular(file, buffering=0)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error


def adopt(
    file: Path,
    *,
    split: str,
    name: str,
    classes: Sequence[str] | None = None,
    out_file: Path | None = None,
    num_threads: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Write the manifest of a beton that FFCV wrote.

    Args:
        file: the beton; it is only read.
        split: train, val or test.
        name: name of the dataset.
        classes: names in label order. None means that the classes are named by their numbers.
        out_file: symbolic link to `file` that is created with the manifest next to it. Use it if
            the folder of `file` is not writable. None means that the manifest is next to `file`.
        num_threads: threads that read.
        progress: called with the number of samples done and in total.

    Raises:
        UserError: the file is not a complete beton of images and integer labels, has a manifest
            already or a label without a class name, or the folder cannot be written.
    """
    _refuse_existing(out_file or file)
    with _opened(file) as opened:
        header, rows, blobs, num_bytes = _tables(file, opened.fileno())
        digests = _digests(file, opened.fileno(), rows, blobs, num_threads, progress)
    counts = np.bincount(rows["label"], minlength=len(classes or ()))
    if classes is not None and len(counts) > len(classes):
        raise UserError(
            f"{file} has labels up to {len(counts) - 1}; {len(classes)} class names were given.",
            "Give a name for each label, in label order.",
        )
    labels = [str(number) for number in range(len(counts))] if classes is None else list(classes)
    samples = digests.tobytes() + _ids(digests).astype(ID).tobytes()
    tables = hashlib.sha256(header + rows.tobytes() + samples + blobs.tobytes()).hexdigest()
    num_jpeg = int((rows["mode"] == JPEG).sum())
    subset = everything(labels)
    manifest = Manifest.sealed(
        name=name,
        dataset=name,
        split=split,
        num_samples=len(rows),
        classes=labels,
        class_counts=counts.tolist(),
        encoding=Encoding(format="passthrough" if num_jpeg else "raw", restart_index=False),
        source=file.name,
        subset={"name": subset.name, "num_classes": len(labels), "digest": subset.digest},
        seed=0,
        num_jpeg=num_jpeg,
        num_raw=len(rows) - num_jpeg,
        max_width=int(rows["width"].max()),
        max_height=int(rows["height"].max()),
        skipped=[],
        page_size=int(np.frombuffer(header, HEADER, 1)["page_size"][0]),
        bytes=num_bytes,
        sha256=_whole_digest(file) if num_bytes <= SMALL_FILE else tables,
        tables_sha256=tables,
        created_by=CREATED_BY,
        adopted=True,
    )
    _publish(file, out_file, samples, manifest)
    return manifest


def _refuse_existing(path: Path) -> None:
    if manifest_path(path).exists():
        raise UserError(
            f"{path} has a manifest already ({manifest_path(path).name}).",
            "Remove it to adopt the file again.",
        )


def _tables(file: Path, handle: int) -> tuple[bytes, np.ndarray, np.ndarray, int]:
    """Read and check the tables of a beton.

    Returns:
        Header with field descriptors, rows (SAMPLE [N]), blobs (BLOB [N]), file size in bytes.

    Raises:
        UserError: the file is not a complete beton of images and integer labels.
    """
    num_bytes = os.fstat(handle).st_size
    head = os.pread(handle, FIRST_ROW, 0)
    if len(head) < FIRST_ROW:
        raise _no_beton(file, "it is too short")
    fields: dict[str, Any] = {
        name: int(np.frombuffer(head, HEADER, 1)[name][0]) for name in HEADER.names or ()
    }
    if fields["version"] != VERSION:
        raise _no_beton(file, f"its version is {fields['version']}, and should be {VERSION}")
    _check_fields(file, head, fields["num_fields"])
    number, table_offset = fields["num_samples"], fields["table_offset"]
    if not number or not table_offset:
        raise _no_beton(file, "FFCV did not complete it" if number else "it has no sample")
    rows_end = FIRST_ROW + number * SAMPLE.itemsize
    if rows_end > table_offset or table_offset + number * BLOB.itemsize != num_bytes:
        raise _no_beton(file, f"its tables do not fit its {num_bytes:,} bytes")
    rows = np.frombuffer(_read_all(handle, number * SAMPLE.itemsize, FIRST_ROW), SAMPLE)
    blobs = np.frombuffer(_read_all(handle, number * BLOB.itemsize, table_offset), BLOB)
    if rows["label"].min() < 0 or rows["label"].max() >= MAX_CLASSES:
        raise _no_beton(file, f"its labels are from {rows['label'].min()} to {rows['label'].max()}")
    return head, rows, blobs, num_bytes


def _check_fields(file: Path, head: bytes, num_fields: int) -> None:
    if num_fields != NUM_FIELDS:
        raise UserError(
            f"A sample of {file} has {counted(num_fields, 'field')}; an image and a label are "
            "needed.",
            "Write it again with `harness write-beton`.",
        )
    types = np.frombuffer(head, FIELD, NUM_FIELDS, HEADER.itemsize)["type"].tolist()
    if types != [IMAGE_TYPE, INTEGER_TYPE]:
        first, second = (FIELD_NAMES.get(number, "a custom field") for number in types)
        raise UserError(
            f"A sample of {file} is {first} and {second}; an image and an integer label are "
            "needed, in this order.",
            "Write it again from its images with `harness write-beton`; several labels per image "
            "are read by its dataset.",
        )


def _digests(
    file: Path,
    handle: int,
    rows: np.ndarray,
    blobs: np.ndarray,
    num_threads: int,
    progress: Progress | None,
) -> np.ndarray:
    """Digest of each sample, uint8 [N, DIGEST_BYTES], in file order. Raises UserError."""
    sizes = _sizes(file, rows, blobs)
    order = np.argsort(rows["offset"], kind="stable")
    digests = np.empty((len(rows), DIGEST_BYTES), np.uint8)

    def scan(begin: int) -> int:
        part = order[begin : begin + SAMPLES_AT_ONCE]
        for number in part.tolist():
            data = _read_all(handle, int(sizes[number]), int(rows["offset"][number]))
            digests[number] = np.frombuffer(digest_of(data), np.uint8)
        return len(part)

    done = 0
    with ThreadPoolExecutor(num_threads, "harness-adopt") as pool:
        for count in pool.map(scan, range(0, len(rows), SAMPLES_AT_ONCE)):
            done += count
            if progress is not None:
                progress(done, len(rows))
    return digests


def _sizes(file: Path, rows: np.ndarray, blobs: np.ndarray) -> np.ndarray:
    """Bytes of each image, int64 [N]. Raises UserError if the two tables contradict each other."""
    by_sample = blobs[np.argsort(blobs["sample"], kind="stable")]
    first = np.uint64(FIRST_ROW + rows.nbytes)
    end = np.uint64(2**62)  # two numbers below it add up without overflow
    fits = (by_sample["sample"] == np.arange(len(rows))) & (by_sample["offset"] == rows["offset"])
    fits &= (by_sample["offset"] >= first) & (by_sample["offset"] < end) & (by_sample["size"] < end)
    num_bytes = 3 * rows["width"].astype(np.uint64) * rows["height"]
    is_raw = rows["mode"] == RAW
    fits &= (num_bytes > 0) & (is_raw | (rows["mode"] == JPEG))
    fits &= ~is_raw | (by_sample["size"] == num_bytes)
    # The table of blobs follows the last image.
    total = np.uint64(file.stat().st_size - blobs.nbytes)
    fits &= by_sample["offset"] + by_sample["size"] <= total
    if not fits.all():
        raise _no_beton(file, f"its tables do not match sample {np.flatnonzero(~fits)[0]}")
    sizes: np.ndarray = by_sample["size"].astype(np.int64)
    return sizes


def _ids(digests: np.ndarray) -> np.ndarray:
    """Derive a distinct id, uint64 [N], from each digest and its number among equal digests."""
    seen: Counter[bytes] = Counter()
    ids = np.empty(len(digests), np.uint64)
    for number, row in enumerate(digests):
        digest = row.tobytes()
        text = digest + seen[digest].to_bytes(8, "little")
        ids[number] = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
        seen[digest] += 1
    return ids


def _publish(file: Path, out_file: Path | None, samples: bytes, manifest: Manifest) -> None:
    """Create the link unless `out_file` is None, write digests and ids, and last the manifest.

    If the process is killed, a manifest exists only if the other files are complete. Raises
    UserError if the folder cannot be written.
    """
    target = out_file or file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if out_file is not None and not (out_file.exists() and out_file.samefile(file)):
            out_file.symlink_to(file.resolve())
        _write(samples_path(target), samples)
        _write(manifest_path(target), as_json(manifest))
    except OSError as error:
        raise UserError(
            f"{target.parent} cannot be written: {error.strerror or error}.",
            "Write the manifest elsewhere with --out FOLDER, which gets a link to the beton.",
        ) from error


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.adopting")
    try:
        write_durably(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_all(handle: int, size: int, offset: int) -> bytes:
    """Read `size` bytes, in several system calls if needed; fewer only at the end of the file."""
    parts = []
    while size and (part := os.pread(handle, min(size, 2**30), offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def _whole_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _no_beton(file: Path, why: str) -> UserError:
    return UserError(
        f"{file} is not a complete beton of FFCV: {why}.",
        "Write it again with FFCV, or from the images with harness write-beton.",
    )
