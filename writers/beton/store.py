"""A beton on disk: a `.beton` file in FFCV's format, and its manifest. It opens only if both agree.

FFCV's format has no checksum, name or class list. Our tables therefore contain a digest of each
sample's bytes (`writers/beton/layout.py`). The manifest contains a digest of the tables and a
digest of its own fields. Opening a beton thus verifies labels, ids and sizes; `verify` also
verifies each image.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from writers.beton.boxes import BoxTable, read_boxes
from writers.beton.encoding import Encoding
from writers.beton.layout import (
    BLOB,
    DIGEST_BYTES,
    FIELD,
    HEADER,
    ID,
    IMAGE_TYPE,
    INTEGER_TYPE,
    NUM_FIELDS,
    fields_of,
    first_row,
    header_of,
    row_dtype,
)
from writers.errors import UserError
from writers.labels.kinds import BOXES, MANY_LABELS, ONE_LABEL, LabelKind
from writers.regular_file import open_regular

SMALL_FILE = 64 * 2**20  # bytes up to which `sha256` in the manifest is that of the whole file

# Called with the number done and the total number. Functions that take None then report nothing.
Progress = Callable[[int, int], None]


class Manifest(BaseModel):
    """Content and history of a beton, independent of clock and machine.

    Create it by `Manifest.sealed`, which adds its digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest_version: Literal[4] = 4  # 2: sample ids in the file; 3: digests; 4: `differences`
    name: str  # dataset and subset, such as imagenet-in900
    dataset: str  # name in writers/datasets, or the name given to an adopted file
    split: str  # train, val or test
    num_samples: int
    classes: list[str]  # label k is classes[k]
    multi_label: bool = False  # images have a label per class: 1 present, -1 absent, 0 difficult
    # images have boxes of objects, with the classes above; the digest omits this field if it is
    # False, because older manifests do not have it
    has_boxes: bool = False
    # samples per class; with several labels per image, samples in which the class is present
    class_counts: list[int]
    encoding: Encoding
    protocol: str | None = None  # name of the splits, such as vtab; None means the dataset's own
    differences: list[str] = []  # accepted differences from the published counts
    source: str  # name of the folder or archive of the images
    # beton that the samples were copied from: file, sha256; None if they were written from images
    copied_from: dict[str, str] | None = None
    subset: dict[str, Any]  # name, num_classes, digest
    seed: int  # seed of the order and of the `mixed` encoding
    num_jpeg: int  # images stored as JPEG
    num_raw: int  # images stored as pixels
    # images stored as dct blobs; the digest omits this field if it is 0, as for `has_boxes`
    num_dct: int = 0
    max_width: int  # pixels, the largest of all images
    max_height: int
    # images known to be damaged, or skipped by --on-error skip: name, class, reason
    skipped: list[dict[str, str]]
    # files and records of the source that were not read: reason, count, names of the first ones
    omitted: list[dict[str, Any]] = []
    page_size: int  # bytes
    bytes: int  # size of the file
    sha256: str  # digest of the file up to SMALL_FILE bytes; of its tables if it is larger
    tables_sha256: str  # digest of all bytes before and after the pages
    created_by: str  # name and version of the writer
    # FFCV wrote the file, and digests and ids are in `samples_path`; the digest omits this field if
    # it is False, as for `has_boxes`
    adopted: bool = False
    digest: str  # sha256 of all of the above

    @classmethod
    def sealed(cls, **fields: Any) -> Self:
        """Make a manifest from its fields and add its digest."""
        unsealed = cls.model_construct(**fields, digest="").model_dump(mode="json")
        return cls.model_validate(unsealed | {"digest": _digest_of(unsealed)})

    @model_validator(mode="after")
    def _unchanged(self) -> Self:
        if self.digest != _digest_of(self.model_dump(mode="json")):
            raise ValueError("it was changed after it was written")
        return self

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if (
            len(self.class_counts) != len(self.classes)
            or self.num_jpeg + self.num_raw + self.num_dct != self.num_samples
            or (sum(self.class_counts) != self.num_samples and not self.multi_label)
        ):
            raise ValueError("its counts do not add up")
        if self.pages_end < self.rows_end:
            raise ValueError("its file is too small for its samples")
        if self.has_boxes and not self.multi_label:
            raise ValueError("it has boxes, but one label per image")
        if self.bytes > SMALL_FILE and self.sha256 != self.tables_sha256:
            raise ValueError("its digests do not match")
        return self

    @property
    def table_offset(self) -> int:
        """Offset of the table of blobs, which ends the file."""
        return self.bytes - self.num_samples * self.blobs_per_sample * BLOB.itemsize

    @property
    def label_kind(self) -> LabelKind:
        """Kind of the images' labels. Images with boxes also have a label per class."""
        return BOXES if self.has_boxes else MANY_LABELS if self.multi_label else ONE_LABEL

    @property
    def blobs_per_sample(self) -> int:
        """Number of blobs of a sample: its image, its several labels if any, its boxes if any."""
        return 1 + self.multi_label + self.has_boxes

    @property
    def rows_end(self) -> int:
        """Offset after the last row; header, field descriptors and rows come before it."""
        row = row_dtype(has_boxes=self.has_boxes)
        return first_row(has_boxes=self.has_boxes) + self.num_samples * row.itemsize

    @property
    def ids_offset(self) -> int:
        """Offset of the sample ids, just before the table."""
        if self.adopted:
            return self.table_offset
        return self.table_offset - self.num_samples * ID.itemsize

    @property
    def pages_end(self) -> int:
        """End of the last page. The digests start here, followed by the ids."""
        if self.adopted:
            return self.table_offset
        return self.ids_offset - self.num_samples * DIGEST_BYTES


@dataclass(frozen=True)
class Beton:
    """An open beton. Manifest, size and tables agree; `writers.beton.verify` checks the images."""

    path: Path
    manifest: Manifest
    rows: np.ndarray  # SAMPLE [N], or BOXED_SAMPLE [N] if the manifest has_boxes
    digests: np.ndarray  # digests of the samples, uint8 [N, 16] (`layout.digest_of`)
    # sample ids, uint64 [N] in file order, derived from image names (`writers/random_streams.py`)
    ids: np.ndarray
    blobs: np.ndarray  # table of all blobs (images, labels, boxes), BLOB [M], in any order

    @property
    def labels(self) -> np.ndarray:
        """Labels in file order: int64 [N], or int8 [N, K] if the manifest is multi_label.

        Raises:
            UserError: an offset of labels is outside the file.
        """
        labels = self.rows["label"].astype(np.int64)
        if not self.manifest.multi_label:
            return labels
        num_classes = len(self.manifest.classes)  # `label` of a row is the offset of its labels
        last = self.manifest.table_offset - num_classes
        if (labels < self.manifest.rows_end).any() or (labels > last).any():
            raise damaged(self.path, "labels are outside of it")
        return np.asarray(
            np.memmap(self.path, np.int8, "r")[labels[:, None] + np.arange(num_classes)]
        )

    @cached_property
    def sizes(self) -> np.ndarray:
        """Bytes of each sample's image, int64 [N]. Raises UserError if tables do not match."""
        blobs = self.blobs[np.argsort(self.blobs["offset"], kind="stable")]
        offsets, table_offset = self.rows["offset"], np.uint64(self.manifest.table_offset)
        place = np.minimum(np.searchsorted(blobs["offset"], offsets), max(0, len(blobs) - 1))
        sizes = blobs["size"][place]
        fits = (blobs["offset"][place] == offsets) & (
            blobs["sample"][place] == np.arange(len(offsets))
        )
        # written so that no sum of uint64 overflows
        fits &= (offsets <= table_offset) & (
            sizes <= table_offset - np.minimum(offsets, table_offset)
        )
        if not fits.all():
            raise damaged(
                self.path, f"its table of images does not match sample {np.flatnonzero(~fits)[0]}"
            )
        return sizes.astype(np.int64)

    @property
    def has_boxes(self) -> bool:
        """True if the beton has boxes; an image may still have zero boxes."""
        return self.manifest.has_boxes

    @cached_property
    def box_table(self) -> BoxTable:
        """Boxes of all samples.

        Raises:
            UserError: the beton has no boxes, or some are damaged.
        """
        if not self.has_boxes:
            raise UserError(
                f"{self.path} has no boxes of objects.",
                "Write a dataset with boxes, such as voc2007_detection.",
            )
        try:
            return read_boxes(
                self.path,
                self.rows,
                (self.manifest.rows_end, self.manifest.pages_end),
                len(self.manifest.classes),
            )
        except ValueError as error:
            raise damaged(self.path, str(error)) from error

    def boxes(self, number: int) -> np.ndarray:
        """Return a sample's boxes, float32 [n, 6]: left, top, right, bottom, class, difficult.

        Sides are in pixels of the stored image; right and bottom are exclusive. Raises UserError as
        `box_table`.
        """
        return self.box_table.of(number)


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest next to a beton, `<name>.json`."""
    return path.with_name(path.name + ".json")


def samples_path(path: Path) -> Path:
    """Return the path of an adopted beton's digests and ids, `<name>.samples`."""
    return path.with_name(path.name + ".samples")


def open_beton(path: Path | str) -> Beton:
    """Open a beton. Only its tables are read: 72 bytes per sample, up to 136 with boxes.

    Raises:
        UserError: file and manifest do not match, or one is missing or unreadable.
    """
    path = Path(path)
    manifest = read_manifest(path)
    try:
        with open_regular(path) as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes != manifest.bytes:
                raise not_whole(
                    path, f"it is {num_bytes:,} bytes, and should be {manifest.bytes:,}"
                )
            head, tail = _parts(file, manifest.rows_end, manifest.pages_end)
        if manifest.adopted:
            tail = samples_path(path).read_bytes() + tail
    except FileNotFoundError as error:
        if path.exists() and manifest.adopted:
            raise UserError(
                f"{path} lacks {error.filename}, which `harness adopt-beton` wrote.",
                "Adopt it again with `harness adopt-beton`.",
            ) from None
        raise UserError(
            f"There is no beton {path}.", "Write it with `harness write-beton`."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if head[: HEADER.itemsize] != header_of(
        manifest.page_size,
        manifest.num_samples,
        manifest.table_offset,
        has_boxes=manifest.has_boxes,
    ):
        raise not_whole(path, "its header differs")
    if hashlib.sha256(head + tail).hexdigest() != manifest.tables_sha256:
        raise not_whole(path, "its tables differ")
    num_samples = manifest.num_samples
    return Beton(
        path,
        manifest,
        rows=np.frombuffer(
            head,
            row_dtype(has_boxes=manifest.has_boxes),
            num_samples,
            first_row(has_boxes=manifest.has_boxes),
        ),
        digests=np.frombuffer(tail, np.uint8, num_samples * DIGEST_BYTES).reshape(
            num_samples, DIGEST_BYTES
        ),
        ids=np.frombuffer(tail, ID, num_samples, num_samples * DIGEST_BYTES),
        blobs=np.frombuffer(tail, BLOB, offset=num_samples * (DIGEST_BYTES + ID.itemsize)),
    )


def file_digests(
    path: Path, num_samples: int, pages_end: int, *, has_boxes: bool = False
) -> dict[str, Any]:
    """Return the manifest fields `bytes`, `sha256` and `tables_sha256` of a complete file."""
    row_bytes = row_dtype(has_boxes=has_boxes).itemsize
    rows_end = first_row(has_boxes=has_boxes) + num_samples * row_bytes
    with path.open("rb") as file:
        tables = hashlib.sha256(b"".join(_parts(file, rows_end, pages_end))).hexdigest()
        file.seek(0)
        num_bytes = os.fstat(file.fileno()).st_size
        whole = (
            hashlib.file_digest(file, "sha256").hexdigest() if num_bytes <= SMALL_FILE else tables
        )
    return {"bytes": num_bytes, "sha256": whole, "tables_sha256": tables}


def not_whole(path: Path, why: str) -> UserError:
    """Make the UserError for a file that does not match its manifest."""
    return UserError(
        f"{path} is not the file that its manifest describes: {why}.",
        "Write it again with `harness write-beton`.",
    )


def damaged(path: Path, what: str) -> UserError:
    """Make the UserError for a damaged beton."""
    return UserError(f"{path} is damaged: {what}.", "Write it again with `harness write-beton`.")


def has_fields_of(beton: Beton) -> bool:
    """Return True if the file's descriptors match its manifest."""
    manifest = beton.manifest
    if manifest.adopted:  # FFCV lets users choose the names of fields, so only types are compared
        found = np.fromfile(beton.path, FIELD, NUM_FIELDS, offset=HEADER.itemsize)
        return bool(found["type"].tolist() == [IMAGE_TYPE, INTEGER_TYPE])
    expected = fields_of(
        len(manifest.classes) if manifest.multi_label else None,
        has_dct=manifest.num_dct > 0,
        has_boxes=manifest.has_boxes,
    )
    found = np.fromfile(beton.path, FIELD, len(expected), offset=HEADER.itemsize)
    return found.tobytes() == expected.tobytes()


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the beton at `path`.

    Raises UserError if it is missing, unreadable or was changed.
    """
    if path.is_dir():
        inside = [str(file) for file in sorted(path.glob("*.beton"))]
        raise UserError(
            f"{path} is a folder, not a beton.",
            f"Use {' or '.join(inside)}."
            if inside
            else f"Write its images with `harness write-beton --source {path}`.",
        )
    manifest = manifest_path(path)
    try:
        return Manifest.model_validate(json.loads(manifest.read_text()))
    except FileNotFoundError:
        if not path.exists():
            raise UserError(
                f"There is no beton {path}.", "Write it with `harness write-beton`."
            ) from None
        raise UserError(
            f"{path} has no manifest ({manifest.name}), so it cannot be verified.",
            "Write it again with `harness write-beton`; if FFCV wrote it, run `harness "
            "adopt-beton`.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        why = (
            error.errors()[0]["msg"]
            if isinstance(error, ValidationError)
            else str(error).splitlines()[0]
        )
        raise UserError(
            f"{manifest} is not a beton's manifest: {why.removeprefix('Value error, ')}",
            "Write the beton again with `harness write-beton`.",
        ) from error


def _parts(file: BinaryIO, rows_end: int, pages_end: int) -> tuple[bytes, bytes]:
    file.seek(0)
    head = file.read(rows_end)
    file.seek(pages_end)
    return head, file.read()


def _digest_of(manifest: dict[str, Any]) -> str:
    fields = {name: value for name, value in manifest.items() if name != "digest"}
    for name in ("num_dct", "adopted", "omitted", "has_boxes"):
        if not fields.get(name):
            fields.pop(name, None)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
