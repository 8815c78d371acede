"""A beton on disk: one file in FFCV's format, version 2, and its manifest beside it; opened only if the two agree.

The format (little endian): a header; a descriptor of each field; a row for each sample; zeros up to a whole page; pages of
blobs, none of which crosses a page; a table of the blobs, to the end of the file. It has no checksum, no name and no
class list: the manifest has those. Before the table stand, where FFCV does not look, the samples' ids.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from writers.encode import JPEG, RAW, Encoding
from writers.errors import UserError

VERSION = 2
HEADER = np.dtype([("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"),
                   ("table_offset", "<u8")])
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
SAMPLE = np.dtype({"names": ["mode", "width", "height", "offset", "label"], "formats": ["u1", "<u2", "<u2", "<u8", "<i8"],
                   "offsets": [0, 1, 3, 5, 16], "itemsize": 24})
BLOB = np.dtype([("sample", "<u8"), ("offset", "<u8"), ("size", "<u8")])
ID = np.dtype("<u8")
NUM_FIELDS = 2
FIRST_ROW = HEADER.itemsize + NUM_FIELDS * FIELD.itemsize
IMAGE_TYPE, INTEGER_TYPE, ARRAY_TYPE = 2, 1, 4      # FFCV's numbers of an RGB image, an integer, an array of a fixed shape
ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("num_bytes", "<u8"), ("dtype", "S760")])     # of FFCV's NDArrayField

Progress = Callable[[int, int], None]       # done, total


class Manifest(BaseModel):
    """What a beton holds and how it came to be. Nothing in it depends on the clock or the machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest_version: Literal[2] = 2    # 2: the file has the samples' ids
    name: str                           # of the dataset and subset: imagenet-in900
    dataset: str
    split: str
    num_samples: int
    classes: list[str]                  # label k is classes[k]
    multi_label: bool = False           # a sample has a label for each class: 1 it is there, -1 it is not, 0 difficult
    class_counts: list[int]             # samples of each class; with many labels, samples in which it is there
    encoding: Encoding
    source: str                         # the folder or archive that the images came from, by its own name
    subset: dict[str, Any]              # name, num_classes, digest
    seed: int                           # of the order in the file and of the draws of `mixed`
    num_jpeg: int
    num_raw: int
    max_width: int
    max_height: int
    skipped: list[dict[str, str]]       # unreadable images left out by --on-error skip: key, reason
    page_size: int
    bytes: int
    sha256: str                         # of the whole file
    created_by: str

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if len(self.class_counts) != len(self.classes) or self.num_jpeg + self.num_raw != self.num_samples \
                or (sum(self.class_counts) != self.num_samples and not self.multi_label):
            raise ValueError("its counts do not add up")
        if self.ids_offset < FIRST_ROW + self.num_samples * SAMPLE.itemsize:
            raise ValueError("its file is too small for its samples")
        return self

    @property
    def table_offset(self) -> int:
        """Where the table of blobs begins. It ends the file, and has no length of its own."""
        return self.bytes - self.num_samples * (2 if self.multi_label else 1) * BLOB.itemsize

    @property
    def ids_offset(self) -> int:
        """Where the ids of the samples stand, just before the table."""
        return self.table_offset - self.num_samples * ID.itemsize


@dataclass(frozen=True)
class Beton:
    """A beton whose manifest, size and header agree. Its digest is checked by `verify`."""

    path: Path
    manifest: Manifest

    @cached_property
    def rows(self) -> np.ndarray:
        """The samples' rows: SAMPLE [N]."""
        return np.fromfile(self.path, SAMPLE, self.manifest.num_samples, offset=FIRST_ROW)

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], in the order of the file; int8 [N, K] where the manifest says multi_label.

        Raises UserError for labels that lie outside the file.
        """
        labels = self.rows["label"].astype(np.int64)
        if not self.manifest.multi_label:
            return labels
        num_classes = len(self.manifest.classes)    # a row has the place of its labels in the file
        if (labels < FIRST_ROW).any() or (labels > self.manifest.table_offset - num_classes).any():
            raise UserError(f"{self.path} is damaged: labels lie outside of it.", "Write it again with `harness write-beton`.")
        return np.asarray(np.memmap(self.path, np.int8, "r")[labels[:, None] + np.arange(num_classes)])

    @cached_property
    def ids(self) -> np.ndarray:
        """uint64 [N], in the order of the file: of what each image is called (`writers/draws.py`)."""
        return np.fromfile(self.path, ID, self.manifest.num_samples, offset=self.manifest.ids_offset)


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def open_beton(path: Path | str) -> Beton:
    """Open a beton without reading its images. Raises UserError where file and manifest are not one whole."""
    path = Path(path)
    manifest = _read_manifest(path)
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER.itemsize)
    except FileNotFoundError:
        raise UserError(f"There is no beton {path}.", "Write it with `harness write-beton`.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    problem = ""
    if num_bytes != manifest.bytes:
        problem = f"it is {num_bytes:,} bytes, and should be {manifest.bytes:,}"
    elif header != header_of(manifest.page_size, manifest.num_samples, manifest.table_offset):
        problem = "its header is another"
    if problem:
        raise UserError(f"{path} is not the file that its manifest describes: {problem}.",
                        "Write it again with `harness write-beton`.")
    return Beton(path, manifest)


def verify(path: Path | str, progress: Progress | None = None) -> list[str]:
    """Everything that is wrong with a beton, in words; an empty list: nothing. Reads all of it and decodes every image."""
    try:
        beton = open_beton(path)
    except UserError as error:
        return [error.message]
    problems = []
    if file_digest(beton.path) != beton.manifest.sha256:
        problems.append("its sha256 is not the manifest's: at least one byte has changed")
    index_problem, sizes = _read_sizes(beton)
    if index_problem:
        return [*problems, index_problem]
    problems += _label_problems(beton)
    with beton.path.open("rb") as file:
        for number, (row, size) in enumerate(zip(beton.rows, sizes, strict=True)):
            if progress is not None:
                progress(number, len(sizes))
            problem = _sample_problem(row, os.pread(file.fileno(), int(size), int(row["offset"])))
            if problem:
                problems.append(f"sample {number} (label {row['label']}): {problem}")
    if progress is not None:
        progress(len(sizes), len(sizes))
    return problems


def header_of(page_size: int, num_samples: int, table_offset: int) -> bytes:
    """The first bytes of a beton."""
    return np.array([(VERSION, NUM_FIELDS, page_size, num_samples, table_offset)], HEADER).tobytes()


def fields_of(num_labels: int | None) -> np.ndarray:
    """The descriptors of image and label: FIELD [2]. num_labels: K where each sample has a label for each class (int8 [K])."""
    fields = np.zeros(NUM_FIELDS, FIELD)
    fields["type"] = IMAGE_TYPE, INTEGER_TYPE if num_labels is None else ARRAY_TYPE
    fields["name"] = b"image", b"label"
    if num_labels is not None:
        arguments = np.zeros(1, ARRAY_ARGUMENTS)
        dtype = json.dumps(np.dtype(np.int8).descr).encode()
        arguments["shape"][0, 0], arguments["num_bytes"], arguments["dtype"] = num_labels, len(dtype), dtype
        fields[1]["arguments"] = arguments.tobytes()
    return fields


def has_fields_of(beton: Beton) -> bool:
    """Whether the file's own descriptors are those of its manifest."""
    expected = fields_of(len(beton.manifest.classes) if beton.manifest.multi_label else None)
    return np.fromfile(beton.path, FIELD, NUM_FIELDS, offset=HEADER.itemsize).tobytes() == expected.tobytes()


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> Manifest:
    manifest = manifest_path(path)
    try:
        return Manifest.model_validate(json.loads(manifest.read_text()))
    except FileNotFoundError:
        if not path.exists():
            raise UserError(f"There is no beton {path}.", "Write it with `harness write-beton`.") from None
        raise UserError(f"{path} has no manifest ({manifest.name}), so nothing says that it is whole.",
                        "Write it again with `harness write-beton`.") from None
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(f"{manifest} is not a beton's manifest: {str(error).splitlines()[0]}",
                        "Write the beton again with `harness write-beton`.") from error


def _read_sizes(beton: Beton) -> tuple[str, np.ndarray]:
    """Bytes of each sample's image, or what is wrong with the tables."""
    if not has_fields_of(beton):
        return "its fields are not an image and a label", np.empty(0, np.uint64)
    table_offset = np.uint64(beton.manifest.table_offset)
    blobs = np.fromfile(beton.path, BLOB, offset=int(table_offset))
    blobs = blobs[np.argsort(blobs["offset"], kind="stable")]
    offsets = beton.rows["offset"]
    place = np.minimum(np.searchsorted(blobs["offset"], offsets), max(0, len(blobs) - 1))
    sizes = blobs["size"][place]
    fits = (blobs["offset"][place] == offsets) & (blobs["sample"][place] == np.arange(len(offsets)))
    fits &= (offsets <= table_offset) & (sizes <= table_offset - np.minimum(offsets, table_offset))    # no overflow
    if not fits.all():
        return f"its table of images does not fit sample {np.flatnonzero(~fits)[0]}", sizes
    return "", sizes


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


def _sample_problem(row: np.void, data: bytes) -> str:
    stated = int(row["width"]), int(row["height"])
    if row["mode"] == RAW:
        return "" if len(data) == 3 * stated[0] * stated[1] else "its pixels are not as many as width x height"
    if row["mode"] != JPEG:
        return f"its mode is {row['mode']}, neither JPEG (0) nor raw (1)"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return "" if image.size == stated else f"it is {image.size} pixels, and should be {stated}"
    except Exception as error:      # Pillow's decoders raise what they like
        return f"its JPEG does not decode: {error}"
