"""Layout of a `.beton` file. It depends on the samples only: equal samples give equal files.

FFCV's format, version 2, little endian: a header; a descriptor per field; a row per sample; zeros
up to a full page; pages of blobs, with zeros between them (no blob crosses the end of a page); a
table of the blobs up to the end of the file. The digests and ids of the samples are stored before
the table, where FFCV does not read. A file with boxes has a third field, of FFCV's type for bytes.
"""

import hashlib
import json
import os
from array import array

import numpy as np

from writers.beton.encoding import DCT

VERSION = 2  # of FFCV's format
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("table_offset", "<u8"),
    ]
)
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
SAMPLE = np.dtype(
    {
        "names": ["mode", "width", "height", "offset", "label"],
        "formats": ["u1", "<u2", "<u2", "<u8", "<i8"],
        "offsets": [0, 1, 3, 5, 16],
        "itemsize": 24,
    }
)
# Row of a beton with boxes: SAMPLE, then offset and size of the blob of boxes (FFCV's BytesField).
BOXED_SAMPLE = np.dtype(
    {
        "names": ["mode", "width", "height", "offset", "label", "boxes_offset", "boxes_size"],
        "formats": ["u1", "<u2", "<u2", "<u8", "<i8", "<u8", "<u8"],
        "offsets": [0, 1, 3, 5, 16, 24, 32],
        "itemsize": 40,
    }
)
BLOB = np.dtype([("sample", "<u8"), ("offset", "<u8"), ("size", "<u8")])
ID = np.dtype("<u8")
DIGEST_BYTES = 16  # bytes of a sample's digest: the first 16 of a sha256
NUM_FIELDS = 2  # image and label
FIRST_ROW = HEADER.itemsize + NUM_FIELDS * FIELD.itemsize
BOXED_FIRST_ROW = FIRST_ROW + FIELD.itemsize
# FFCV's numbers of field types: RGB image, integer, bytes, array of fixed shape
IMAGE_TYPE, INTEGER_TYPE, BYTES_TYPE, ARRAY_TYPE = 2, 1, 3, 4
CUSTOM_TYPE = 255  # field type of images if some are dct blobs; stock FFCV refuses it
# Arguments of FFCV's NDArrayField: shape, number of bytes of `dtype`, and the dtype as JSON.
ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("num_bytes", "<u8"), ("dtype", "S760")])

PAGE_SIZE = 8 * 2**20  # bytes; FFCV's default
# bytes; FFCV's minimum, used for fewer than FEW_SAMPLES samples to save padding
SMALL_PAGE_SIZE = 2 * 2**20
FEW_SAMPLES = 10_000


class Layout:
    """Layout of up to `capacity` samples: rows, offsets and page size.

    `num_labels` is K if each sample has a label per class; None means one label per sample. The K
    labels of a sample are a separate blob, and so are its boxes if `has_boxes`. Memory: 96 bytes
    per sample.
    """

    def __init__(
        self, capacity: int, num_labels: int | None = None, *, has_boxes: bool = False
    ) -> None:
        self._num_labels, self.has_boxes = num_labels, has_boxes
        self._row = row_dtype(has_boxes=has_boxes)
        self._columns = {
            name: array("q" if name == "label" else "Q") for name in self._row.names or ()
        }
        self._blobs = {name: array("Q") for name in BLOB.names or ()}
        self._ids = array("Q")
        self._digests = bytearray()
        self.page_size = PAGE_SIZE if capacity >= FEW_SAMPLES else SMALL_PAGE_SIZE
        rows_end = first_row(has_boxes=has_boxes) + capacity * self._row.itemsize
        self.end = _round_up(rows_end, self.page_size)

    def place(self, size: int) -> int:
        """Return the offset of the next blob, which has `size` bytes.

        It follows the last blob, or starts a new page if it would cross the end of the page. If a
        blob is larger than a page, the page size doubles until the blob fits. Earlier offsets stay
        valid, because a larger page consists of whole smaller pages.
        """
        self.page_size = max(self.page_size, 1 << (size - 1).bit_length())
        if self.end // self.page_size != (self.end + size - 1) // self.page_size:
            self.end = _round_up(self.end, self.page_size)
        offset = self.end
        self._blobs["sample"].append(len(self._ids))
        self._blobs["offset"].append(offset)
        self._blobs["size"].append(size)
        self.end += size
        return offset

    def add(
        self,
        mode: int,
        width: int,
        height: int,
        offset: int,
        label: int,
        sample_id: int,
        digest: bytes,
        boxes: tuple[int, int] | None = None,
    ) -> None:
        """Add a sample whose image is at `offset`.

        `label` is its class, or the offset of its labels if it has several. `boxes` is offset and
        size in bytes of its boxes; None means that the file has no boxes.
        """
        assert len(digest) == DIGEST_BYTES
        self._digests += digest
        values = (mode, width, height, offset, label, *(boxes or ()))
        for name, value in zip(self._columns, values, strict=True):
            self._columns[name].append(value)
        self._ids.append(sample_id)

    @property
    def num_samples(self) -> int:
        """Number of samples laid out so far."""
        return len(self._ids)

    @property
    def rows(self) -> np.ndarray:
        """Rows of the samples added so far, SAMPLE [N], or BOXED_SAMPLE [N] if `has_boxes`."""
        # zeros: rows have gaps, whose bytes must not depend on earlier contents of the memory
        rows = np.zeros(self.num_samples, self._row)
        for name, column in self._columns.items():
            rows[name] = np.frombuffer(column, column.typecode)
        return rows

    @property
    def pages_end(self) -> int:
        """End of the last page; the digests start here."""
        return _round_up(self.end, self.page_size)

    def write_tables(self, handle: int) -> int:
        """Write all tables, the header last, and return the file size. Raises OSError."""
        blobs = np.empty(len(self._blobs["size"]), BLOB)
        for name, column in self._blobs.items():
            blobs[name] = np.frombuffer(column, column.typecode)
        ids = np.frombuffer(self._ids, self._ids.typecode).astype(ID)
        table_offset = self.pages_end + len(self._digests) + ids.nbytes
        os.ftruncate(handle, self.pages_end)
        write_at(handle, bytes(self._digests) + ids.tobytes() + blobs.tobytes(), self.pages_end)
        write_at(
            handle,
            header_of(self.page_size, self.num_samples, table_offset, has_boxes=self.has_boxes)
            + fields_of(
                self._num_labels,
                has_dct=DCT in self._columns["mode"],
                has_boxes=self.has_boxes,
            ).tobytes()
            + self.rows.tobytes(),
            0,
        )
        return table_offset + blobs.nbytes


def digest_of(*blobs: bytes | memoryview) -> bytes:
    """Return the digest of a sample's blobs: its image, then labels and boxes if it has blobs."""
    digest = hashlib.sha256()
    for blob in blobs:
        digest.update(blob)
    return digest.digest()[:DIGEST_BYTES]


def row_dtype(*, has_boxes: bool) -> np.dtype:
    """Dtype of a sample's row."""
    return BOXED_SAMPLE if has_boxes else SAMPLE


def first_row(*, has_boxes: bool) -> int:
    """Offset of the rows, which follow the descriptors of the fields."""
    return BOXED_FIRST_ROW if has_boxes else FIRST_ROW


def header_of(
    page_size: int, num_samples: int, table_offset: int, *, has_boxes: bool = False
) -> bytes:
    """Header of a beton."""
    num_fields = NUM_FIELDS + has_boxes
    return np.array([(VERSION, num_fields, page_size, num_samples, table_offset)], HEADER).tobytes()


def fields_of(
    num_labels: int | None, *, has_dct: bool = False, has_boxes: bool = False
) -> np.ndarray:
    """Return the descriptors of image, label and boxes, FIELD [2], or [3] with boxes.

    Args:
        num_labels: K if each sample has a label per class (int8 [K]); None means one label.
        has_dct: some images are dct blobs. The image field then has a custom type, which stock FFCV
            refuses; otherwise it would read the blobs as pixels.
        has_boxes: each sample has boxes, in a field of bytes.
    """
    fields = np.zeros(NUM_FIELDS + has_boxes, FIELD)
    types = (
        CUSTOM_TYPE if has_dct else IMAGE_TYPE,
        INTEGER_TYPE if num_labels is None else ARRAY_TYPE,
        BYTES_TYPE,
    )
    names = b"image", b"label", b"boxes"
    fields["type"], fields["name"] = types[: len(fields)], names[: len(fields)]
    if num_labels is not None:
        arguments = np.zeros(1, ARRAY_ARGUMENTS)
        dtype = json.dumps(np.dtype(np.int8).descr).encode()
        arguments["shape"][0, 0], arguments["num_bytes"], arguments["dtype"] = (
            num_labels,
            len(dtype),
            dtype,
        )
        fields[1]["arguments"] = arguments.tobytes()
    return fields


def write_at(handle: int, data: bytes, offset: int) -> None:
    """Write all bytes at `offset`, in several system calls if needed. Raises OSError."""
    view = memoryview(data)
    while view:
        num_written = os.pwrite(handle, view, offset)
        view, offset = view[num_written:], offset + num_written


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
