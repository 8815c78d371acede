"""Which samples of a beton a plan sees, where their bytes lie, and in which order an epoch takes them.

Reads the index of the file (FFCV's format, version 2) and no image. What would make FFCV read nonsense is refused here:
FFCV itself opens a half-written file without a word, and takes the whole of it for its table of contents.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders.augment import random_order
from loaders.plan import LoaderPlan
from writers.errors import UserError

_HEADER = np.dtype([("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"),
                    ("table_offset", "<u8")])
_FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
_SAMPLE = np.dtype({"names": ["mode", "width", "height", "offset", "label"], "formats": ["u1", "<u2", "<u2", "<u8", "<i8"],
                    "offsets": [0, 1, 3, 5, 16], "itemsize": 24})      # an RGB image, then an integer, aligned
_BLOB = np.dtype([("sample", "<u8"), ("offset", "<u8"), ("size", "<u8")])
_FIELDS = [2, 1]        # FFCV's numbers of types: an RGB image, an integer
_RAW = 1                # the mode of an image that is stored as pixels; 0 is JPEG


@dataclass(frozen=True)
class Samples:
    """The samples that a plan sees, as columns of equal length N in the order of the view."""

    path: Path
    classes: tuple[str, ...]    # in label order, after relabelling
    indices: np.ndarray         # int64: each sample's place in the file, by which its crops are drawn
    labels: np.ndarray          # int64, after relabelling
    modes: np.ndarray           # uint8: 0 JPEG, 1 raw
    widths: np.ndarray          # int64, pixels
    heights: np.ndarray         # int64, pixels
    offsets: np.ndarray         # int64: first byte of the image in the file
    sizes: np.ndarray           # int64, bytes

    def __len__(self) -> int:
        return len(self.indices)

    def num_batches(self, plan: LoaderPlan) -> int:
        """Batches per epoch. A set smaller than a batch gives one short batch, also with drop_last: never none."""
        if plan.drop_last:
            return max(1, len(self) // plan.batch_size)
        return -(-len(self) // plan.batch_size)

    def order(self, plan: LoaderPlan, epoch: int) -> np.ndarray:
        """The epoch's samples, as positions in these columns: int64, without what drop_last leaves out."""
        random = plan.order == "random"
        positions = random_order(plan.seed, epoch, len(self)) if random else np.arange(len(self))
        return positions[:self.num_batches(plan) * plan.batch_size]

    def batches(self, plan: LoaderPlan, epoch: int) -> Iterator[np.ndarray]:
        """The same, batch by batch."""
        order = self.order(plan, epoch)
        for start in range(0, len(order), plan.batch_size):
            yield order[start:start + plan.batch_size]

    def damaged(self, position: int) -> UserError:
        """The error for a sample whose bytes do not decode."""
        return UserError(f"Sample {self.indices[position]} of {self.path} is not a whole, clean JPEG "
                         f"({self.sizes[position]} bytes from byte {self.offsets[position]}).",
                         f"`harness verify {self.path}` lists all such samples; write the beton again.")


def open_samples(plan: LoaderPlan) -> Samples:
    """The plan's samples. Raises UserError for a file that is absent, damaged, or no beton of images and labels; for an
    index or a label that the file does not have; and for a view with no sample left in it."""
    rows, blobs = _read_index(plan.beton)
    indices = _viewed(plan, len(rows))
    labels, classes = _relabelled(plan, rows["label"][indices], _class_names(plan.beton))
    used = labels >= 0
    indices, labels = indices[used], labels[used]
    if not len(indices):
        raise UserError(f"{plan.beton}: the view has no sample.", "The plan's indices and labels leave all of them out.")
    chosen = rows[indices]
    offsets = chosen["offset"].astype(np.int64)
    return Samples(plan.beton, classes, indices, labels, chosen["mode"].copy(), chosen["width"].astype(np.int64),
                   chosen["height"].astype(np.int64), offsets, _sizes(plan.beton, chosen, blobs))


def _read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The rows of samples and of blobs. Raises UserError for what is not a whole beton of (image, integer) samples."""
    def broken(what: str) -> UserError:
        return UserError(f"{path} is not a beton that can be read: {what}.", "Write it again with `harness write-beton`.")

    try:
        num_bytes = path.stat().st_size
        header = np.fromfile(path, _HEADER, 1)
        if not len(header) or header[0]["version"] != 2:
            raise broken("it does not begin with the header of FFCV's format, version 2")
        num_samples, table = int(header[0]["num_samples"]), int(header[0]["table_offset"])
        fields = np.fromfile(path, _FIELD, int(header[0]["num_fields"]), offset=_HEADER.itemsize)
        if list(fields["type"]) != _FIELDS:
            raise broken("its samples are not an RGB image and an integer label")
        first_row = _HEADER.itemsize + fields.nbytes
        if not first_row + num_samples * _SAMPLE.itemsize <= table <= num_bytes:
            raise broken("it is cut short, or was never finished")
        rows = np.fromfile(path, _SAMPLE, num_samples, offset=first_row)
        blobs = np.fromfile(path, _BLOB, offset=table)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(blobs) < num_samples or (blobs["offset"] + blobs["size"] > table).any():
        raise broken("its table of contents does not fit its images")
    return rows, blobs


def _sizes(path: Path, rows: np.ndarray, blobs: np.ndarray) -> np.ndarray:
    """Bytes of each row's image, int64. The table of blobs alone has them, in the order in which a writer's workers ended."""
    blobs = blobs[np.argsort(blobs["offset"], kind="stable")]
    found = np.minimum(np.searchsorted(blobs["offset"], rows["offset"]), len(blobs) - 1)
    sizes = blobs["size"][found].astype(np.int64)
    pixels = rows["width"].astype(np.int64) * rows["height"]
    if (blobs["offset"][found] != rows["offset"]).any() or (pixels == 0).any() \
            or (sizes[rows["mode"] == _RAW] != 3 * pixels[rows["mode"] == _RAW]).any() or (rows["mode"] > _RAW).any():
        raise UserError(f"{path} is damaged: its index does not fit its images.", "Write it again with `harness write-beton`.")
    return sizes


def _viewed(plan: LoaderPlan, num_in_file: int) -> np.ndarray:
    if plan.indices is None:
        return np.arange(num_in_file)
    indices = np.array(plan.indices, np.int64)
    outside = indices[(indices < 0) | (indices >= num_in_file)]
    if len(outside):
        raise UserError(f"LoaderPlan.indices asks for sample {outside[0]}; {plan.beton} has samples 0 to {num_in_file - 1}.")
    return indices


def _relabelled(plan: LoaderPlan, labels: np.ndarray, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """New labels (-1: not used), and the names that go with them; a class made of several carries all of their names."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise UserError(f"{plan.beton} has labels from {labels.min()} to {labels.max()} for {len(classes)} classes.",
                        "Write it again with `harness write-beton`.")
    if plan.labels is None:
        return labels.copy(), classes
    if len(plan.labels) != len(classes):
        raise UserError(f"LoaderPlan.labels relabels {len(plan.labels)} classes; {plan.beton} has {len(classes)}.")
    table = np.array(plan.labels, np.int64)
    if table.min() < -1:
        raise UserError(f"LoaderPlan.labels has the label {table.min()}; a label is 0 or more, or -1 for a class not used.")
    names: list[list[str]] = [[] for _ in range(table.max() + 1)]
    for name, label in zip(classes, plan.labels, strict=True):
        if label >= 0:
            names[label].append(name)
    return table[labels], tuple("+".join(group) for group in names)


def _class_names(path: Path) -> tuple[str, ...]:
    manifest = path.with_name(path.name + ".json")
    try:
        return tuple(json.loads(manifest.read_text())["classes"])
    except FileNotFoundError:
        raise UserError(f"{path} has no manifest ({manifest.name}).", "Write it again with `harness write-beton`.") from None
