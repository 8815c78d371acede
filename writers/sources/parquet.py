"""Parquet shards of the Hugging Face hub, such as `train-00000-of-00294.parquet`.

Shards are read from a folder, its `data/` or its split folders. The column `image` or `img` is a
struct of `bytes` and `path`. The column `label` or `labels` has a number or name of a class, or a
list of them if images have several labels. Class names come from the schema's metadata
(`ClassLabel`). If these are not the names of the dataset's classes, as for ImageNet, numbers follow
the dataset's order of classes.

Images are named by their paths. On the hub, ImageNet's paths end in the class, as in
`n01440764_10026_n01440764.JPEG`. This suffix is removed, so that names are equal for all sources.
Images labeled -1 and shards without labels (ImageNet's test shards) are left out and counted.

A row group is the smallest unit of reading, about 100 images on the hub. A `.beton` file is written
in another order, so row groups are read many times. Up to CACHE_BYTES of row groups are kept in
memory, so that small datasets are read only once. Each thread uses memory for one more row group.
"""

import json
import re
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from writers.errors import UserError
from writers.formats.files import shards_in
from writers.found_images import FoundImages
from writers.omissions import OmissionLog
from writers.source import below_class, unique_names
from writers.sources._label_lists import listed, refuse_negative, with_lists
from writers.split_names import NO_SPLIT, split_of
from writers.text_names import MAX_PATH, counted, first_line, normalized, preview

LAYOUT = (
    "train-*.parquet and validation-*.parquet with columns image (bytes, path) and label, or "
    "a folder of them"
)
CACHE_BYTES = 512 * 2**20  # bytes of row groups that are kept in memory
MAX_LISTED = 12  # columns that a message names
MAX_TYPE = 40  # characters of a column's type in a message
BYTES_TYPES = ("binary", "large_binary", "binary_view")
TEXT_TYPES = ("string", "large_string", "string_view", "null")
_ONE_LABEL = r"(?:u?int\d+|(?:large_)?string|dictionary<values=string.*>)"
LABEL_TYPE = re.compile(
    rf"{_ONE_LABEL}|(?:large_|fixed_size_)?list<\w+: {_ONE_LABEL}(?: not null)?>(?:\[\d+\])?"
)
CLASS_IN_PATH = re.compile(r"(?P<image>.+)_(?P<wnid>n\d{8})(?P<extension>\.\w+)")


def recognize(path: Path) -> bool:
    """Return True for a Parquet file or a folder of Parquet files."""
    if path.is_file():
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    return bool(shards_in(path, ".parquet"))


def find(path: Path, classes: Sequence[str] | None) -> FoundImages:
    """List the images. `classes` is that of `_namer`.

    Raises:
        UserError: columns are unexpected, labels are outside the classes, splits are unclear, or
            pyarrow is missing.
    """
    files = ParquetFiles([path] if path.is_file() else shards_in(path, ".parquet"))
    splits: dict[str, dict[str, tuple[str, str]]] = {}
    several: dict[str, list[str]] = {}  # key -> classes, for images whose label is a list
    omitted = OmissionLog()
    for number, shard in enumerate(files.shards):
        class_of = _namer(files.class_names, classes, shard)
        images = splits.setdefault(_split_of(shard), {})
        rows = files.labels_and_paths(number)
        is_labeled = any(label not in (None, -1) for label, _ in rows)
        for row, (label, image_path) in enumerate(rows):
            if label == -1 or (label is None and not is_labeled):
                omitted.add("rows without a label", f"{shard.name}, row {row}")
                continue
            if isinstance(label, list):
                names = [class_of(value) for value in listed(label, f"{shard}, row {row},")]
                several[f"{number}/{row}"] = names
                class_name = names[0] if names else ""
            elif label is None or label == "":
                raise _without_label(shard, [label for label, _ in rows], row)
            else:
                class_name = class_of(label)
            images[f"{number}/{row}"] = class_name, _image(image_path, class_name, shard, row)
    splits = {split: _unique(images, files.shards) for split, images in splits.items()}
    labels = with_lists(splits, several)
    return FoundImages(files, splits, omissions=omitted.omissions(), labels=labels)


class ParquetFiles:
    """Images of some shards, named `<shard number>/<row>`."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = list(shards)
        self.class_names: list[str] | None = None  # label k is class_names[k]
        self._metadata = [_metadata(shard) for shard in shards]
        # per shard: names of the columns of images and of labels
        self._columns = [self._checked_columns(number) for number in range(len(shards))]
        # per shard: number of rows up to and including each row group
        self._ends = [
            list(
                accumulate(
                    metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)
                )
            )
            for metadata in self._metadata
        ]
        self._cache: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        return [
            f"{number}/{row}"
            for number, metadata in enumerate(self._metadata)
            for row in range(metadata.num_rows)
        ]

    def read(self, name: str) -> bytes:
        """Read one file. Raises OSError."""
        shard, row = map(int, name.split("/"))
        group = bisect_right(self._ends[shard], row)
        first = self._ends[shard][group - 1] if group else 0
        data: bytes | None = self._row_group(shard, group)[row - first].as_py()
        if data is None:
            raise OSError("the row has no bytes")
        return data

    def where(self, name: str) -> str:
        """Describe the location of a file for messages."""
        shard, row = name.split("/")
        return f"{self.shards[int(shard)]}, row {row}"

    def labels_and_paths(self, shard: int) -> Sequence[tuple[Any, str | None]]:
        """Read labels and paths of all rows of a shard, without the images.

        A label is a number, a name, a list of them, or None. Raises UserError if the shard is
        damaged.
        """
        column, label = self._columns[shard]
        try:
            file = self._open(shard)
            labels = file.read([label], use_threads=False)[label].to_pylist()
            table = file.read([f"{column}.path"], use_threads=False).flatten()
        except Exception as error:  # pyarrow raises its own exception types
            raise UserError(
                f"{self.shards[shard]} is damaged: {first_line(error)}", "Download it again."
            ) from error
        return list(zip(labels, table[f"{column}.path"].to_pylist(), strict=True))

    def _row_group(self, shard: int, group: int) -> Any:
        """Return the bytes of the images of a row group, as a pyarrow array.

        Raises OSError if the row group is damaged.
        """
        with self._lock:
            if (shard, group) in self._cache:
                self._cache.move_to_end((shard, group))
                return self._cache[shard, group]
        column = f"{self._columns[shard][0]}.bytes"
        try:
            images = (
                self._open(shard)
                .read_row_group(group, [column], use_threads=False)
                .flatten()[column]
            )
        except Exception as error:
            raise OSError(f"row group {group} is damaged: {first_line(error)}") from error
        with self._lock:
            if (shard, group) not in self._cache:  # another thread may have read it in the meantime
                self._cache[shard, group] = images
                self._cached_bytes += images.nbytes
            while self._cached_bytes > CACHE_BYTES:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return images

    def _open(self, shard: int) -> Any:
        """Open a reader for one thread, reusing the parsed metadata."""
        return _parquet().ParquetFile(
            self.shards[shard], metadata=self._metadata[shard], pre_buffer=False
        )

    def _checked_columns(self, shard: int) -> tuple[str, str]:
        """Call `_columns_of`, and raise UserError for the exceptions of pyarrow, of any type."""
        try:
            return self._columns_of(shard)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.shards[shard]} has damaged metadata: {first_line(error)}",
                "Download it again.",
            ) from error

    def _columns_of(self, shard: int) -> tuple[str, str]:
        """Return the names of the columns of images and of labels; keep the shard's class names.

        Raises UserError if a column is missing, if paths are too long, or if the shard has other
        classes than the first one.
        """
        path = self.shards[shard]
        schema = self._metadata[shard].schema.to_arrow_schema()
        column = next((name for name in ("image", "img") if name in schema.names), "")
        parts = {
            part.name: str(part.type) for part in (schema.field(column).flatten() if column else ())
        }
        label = next((name for name in ("label", "labels") if name in schema.names), "")
        is_label = bool(label) and LABEL_TYPE.fullmatch(str(schema.field(label).type)) is not None
        is_image = (
            parts.get(f"{column}.bytes") in BYTES_TYPES
            and parts.get(f"{column}.path") in TEXT_TYPES
        )
        if not (is_image and is_label):
            columns = [f"{field.name} ({str(field.type)[:MAX_TYPE]})" for field in schema]
            raise UserError(
                f"{path} has the columns {preview(columns, MAX_LISTED)}; it needs image, with "
                "bytes and path, and label, a whole number, a name, or a list of them.",
                f"Accepted: {LAYOUT}.",
            )
        _refuse_long_paths(self._metadata[shard], f"{column}.path", path)
        class_names = _class_names(schema.metadata or {}, path, label)
        if shard and class_names != self.class_names:
            raise UserError(
                f"{path} names other classes than {self.shards[0]}.",
                "Pass only shards of one dataset.",
            )
        self.class_names = class_names
        return column, label


def _refuse_long_paths(metadata: Any, column: str, shard: Path) -> None:
    """Raise UserError if a column of paths is too large, before it is read."""
    num_bytes = sum(
        part.total_uncompressed_size
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for part in map(group.column, range(group.num_columns))
        if part.path_in_schema == column
    )
    if num_bytes > MAX_PATH * (metadata.num_rows + MAX_PATH):
        raise UserError(
            f"{shard} has paths of {num_bytes:,} bytes in {counted(metadata.num_rows, 'row')}, "
            "more than paths of files.",
            "Write it again without them.",
        )


def _without_label(shard: Path, labels: Sequence[Any], row: int) -> UserError:
    number = sum(label is None or label == "" for label in labels)
    return UserError(
        f"{shard} has no label in {number} of the {counted(len(labels), 'row')}; the first is row "
        f"{row}.",
        "Remove these rows, or label them -1 if they are to be left out.",
    )


def _class_names(metadata: Mapping[bytes, bytes], shard: Path, column: str) -> list[str] | None:
    """Return the class names in the hub's metadata, in label order, or None if it has none.

    Raises:
        UserError: the metadata has another form. Numbers as names instead would be misleading.
    """
    try:
        found: Any = json.loads(metadata.get(b"huggingface", b"{}"))
        for key in ("info", "features", column, "names"):
            if found is None:
                return None
            if key == "names" and isinstance(found, list) and len(found) == 1:
                found = found[0]  # metadata of a column of lists has one more level
            elif key == "names" and isinstance(found, dict) and "feature" in found:
                found = found["feature"]
                if found is None:
                    return None
            if not isinstance(found, dict):
                raise ValueError(f"'{key}' is not in an object")
            found = found.get(key)
        if found is not None and not (
            isinstance(found, list) and all(isinstance(name, str) for name in found)
        ):
            raise ValueError("'names' is not a list of strings")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{shard} has damaged metadata of the hub: {first_line(error)}.",
            "Download it again, or write it again without the key 'huggingface'.",
        ) from error
    return None if found is None else unique_names([normalized(name) for name in found])


def _split_of(shard: Path) -> str:
    """Return a shard's split, from its name (`validation-00000-of-00014.parquet`) or its folder."""
    return split_of(re.split(r"[-._]", shard.name)[0]) or split_of(shard.parent.name) or NO_SPLIT


def _namer(
    names: Sequence[str] | None, classes: Sequence[str] | None, shard: Path
) -> Callable[[int | str], str]:
    """Return a function from labels to class names.

    Args:
        names: class names of the schema, in label order; None if it has none.
        classes: class names that the dataset defines; None if it defines none. They replace the
            schema's names if one of the schema's names is not in `classes`: the schema of ImageNet
            has English words instead of WordNet ids.
        shard: for messages.

    Raises:
        UserError: the shard has another number of classes. The returned function raises it for a
            label that is none of the classes.
    """
    uses_schema = names is not None and (classes is None or set(names) <= set(classes))
    in_order = names if uses_schema else classes
    if not uses_schema and classes is not None and names is not None and len(names) != len(classes):
        raise UserError(
            f"{shard} names {counted(len(names), 'class')}, such as {names[0]}; the dataset has "
            f"{len(classes)}, such as "
            f"{classes[0]}.",
            "Pass shards of that dataset.",
        )

    def name(label: int | str) -> str:
        if isinstance(label, str):
            return normalized(label.strip())
        refuse_negative(label, str(shard))
        if in_order is None:
            return f"{label:04d}"
        if not 0 <= label < len(in_order):
            raise UserError(
                f"{shard} has the label {label}; there are {counted(len(in_order), 'class')}.",
                "Pass shards of that dataset.",
            )
        return in_order[label]

    return name


def _unique(
    images: dict[str, tuple[str, str]], shards: Sequence[Path]
) -> dict[str, tuple[str, str]]:
    """Name images by their position if several have the same path, such as `image.jpg`."""
    times = Counter(images.values())
    unique = {}
    for key, (class_name, image) in images.items():
        if times[class_name, image] > 1:
            number, row = map(int, key.split("/"))
            image = _image(None, class_name, shards[number], row)
        unique[key] = class_name, image
    return unique


def _image(path: str | None, class_name: str, shard: Path, row: int) -> str:
    """Return an image's name within its class: its path, or its position if it has no path.

    Raises UserError if the path names another of ImageNet's classes.
    """
    if not path:
        return f"{shard.stem}-{row:07d}"
    below = below_class(normalized(path), class_name)
    match = CLASS_IN_PATH.fullmatch(below)
    if match is None or not re.fullmatch(r"n\d{8}", class_name):
        return below
    if match["wnid"] != class_name:
        raise UserError(
            f"{shard}, row {row}: the path {path} is of class {match['wnid']}, the label of "
            f"{class_name}.",
            "The labels are in another order than ImageNet's. Use the shards of imagenet-1k.",
        )
    return match["image"] + match["extension"]


def _metadata(shard: Path) -> Any:
    try:
        return _parquet().read_metadata(shard)
    except UserError:
        raise
    except Exception as error:  # pyarrow raises its own exception types
        raise UserError(
            f"{shard} is not a complete Parquet file: {first_line(error)}", "Download it again."
        ) from error


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Reading Parquet shards needs pyarrow.", "pip install 'harness[parquet]'"
        ) from error
    return pyarrow.parquet
