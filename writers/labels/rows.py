"""Read the rows of a table of labels, with their numbers: CSV, TSV, JSON, JSON Lines, Parquet.

    file,label          [{"file": "1.jpg", "label": "cat"}]     {"1.jpg": "cat", "2.jpg": "dog"}
    1.jpg,cat           {"1.jpg": ["cat", "dog"]}               COCO's images and annotations

The number of a row is its line number in CSV, TSV and JSON Lines. In other formats it counts the
rows from 1.
"""

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from writers.errors import UserError
from writers.regular_file import open_regular
from writers.text_names import counted, first_line, preview

MAX_BYTES = 2**29  # size of a text file: enough for MAX_ROWS names as long as ImageNet's
MAX_ROWS = 25_000_000  # rows of a Parquet table
MAX_SHARED = 10_000  # distinct texts of cells that are kept in memory only once
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
MAX_LISTED = 12  # columns that a message names
DELIMITERS = ",;\t|"
PARQUET, PARQUET_MARK = ".parquet", b"PAR1"
ACCEPTED = "Accepted: .csv, .tsv, .json, .jsonl and .parquet."


@dataclass(frozen=True)
class Table:
    """Content of a table.

    Attributes:
        path: the file.
        columns: names of the columns.
        rows: pairs of row number and values, which are in the order of the columns. A value is None
            if it is missing.
        ragged: numbers of the rows that have more or fewer values than there are columns.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Sequence[tuple[int, tuple[Any, ...]]]
    ragged: Sequence[int] = ()

    def listed(self) -> str:
        """Name the columns, for messages."""
        return preview(self.columns, MAX_LISTED)


def read_table(path: Path, wanted: Callable[[str], bool] = lambda column: True) -> Table:
    """Read a table.

    Args:
        path: the file; its extension determines the format.
        wanted: returns True for the columns of a Parquet file to read. Other columns get no values.

    Raises:
        UserError: the file is missing, damaged, too large, or has another format.
    """
    check_file(path)
    extension = path.suffix.lower()
    try:
        if extension == PARQUET:
            return _read_parquet(path, wanted)
        return _reader_of()[extension](path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def check_file(path: Path) -> None:
    """Check a file without reading its rows, so that only tables are read or digested.

    Raises:
        UserError: the file is missing or too large, or its extension is not that of a table.
    """
    try:
        if not path.exists():
            raise UserError(f"There is no table of labels {path}.", ACCEPTED)
        if not path.is_file():
            raise UserError(f"The table of labels {path} is not a file.", ACCEPTED)
        if path.suffix.lower() == PARQUET:
            with open_regular(path) as file:
                if file.read(len(PARQUET_MARK)) != PARQUET_MARK:
                    raise UserError(f"{path} is not a complete Parquet file: it has no mark.")
        elif path.suffix.lower() not in _reader_of():
            raise UserError(f"{path} is not a table of labels that can be read.", ACCEPTED)
        elif path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path} has {path.stat().st_size / 1e9:.1f} GB, more than a table of labels.",
                "Write it as Parquet.",
            )
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _reader_of() -> dict[str, Callable[[Path], Table]]:
    """Return the readers of text files, by file extension."""
    return {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
    }


def _read_csv(path: Path) -> Table:
    text = _text(path)
    header = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=header.count)
    reader = csv.reader((line[0] for line in LINE.finditer(text)), delimiter=delimiter, strict=True)
    cells: dict[str, str] = {}
    rows: list[tuple[int, tuple[Any, ...]]] = []
    ragged: list[int] = []
    columns: tuple[str, ...] = ()
    begin = 1
    try:
        for fields in reader:
            if not columns:
                columns = tuple(field.strip() for field in fields)
            elif len(fields) == len(columns):
                rows.append((begin, tuple(_shared(field, cells) for field in fields)))
            elif any(field.strip() for field in fields):
                ragged.append(begin)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, row {begin}: {error}.", "Is it a CSV, with each quote closed?"
        ) from error
    return Table(path, columns, rows, ragged)


def _shared(text: str, cells: dict[str, str]) -> str:
    """Return the equal text of an earlier row if there is one, to save memory: labels repeat."""
    if len(cells) < MAX_SHARED:
        return cells.setdefault(text, text)
    return cells.get(text, text)


def _read_json(path: Path) -> Table:
    try:
        content = json.loads(_text(path), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON: {error}.", "One object per line is .jsonl."
        ) from error
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        content = _coco(content, path)
    if isinstance(content, dict):
        return _of_records(path, _by_file(content))
    if isinstance(content, list):
        return _of_records(path, enumerate(content, start=1))
    raise UserError(f"{path} is neither a list of records nor files with labels.", ACCEPTED)


def _read_json_lines(path: Path) -> Table:
    def records() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(_text(path).splitlines(), start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}, row {number}, is not JSON: {error}.") from error

    return _of_records(path, records())


def _read_parquet(path: Path, wanted: Callable[[str], bool]) -> Table:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Reading a Parquet table needs pyarrow.", "pip install 'harness[parquet]'"
        ) from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if file.metadata.num_rows > MAX_ROWS:
            raise UserError(
                f"{path} has {counted(file.metadata.num_rows, 'row')}, too many for labels.",
                "Name the table that has one row per image.",
            )
        read = [name for name in names if wanted(name) and names.count(name) == 1]
        table = file.read(read, use_threads=False)
        values = {name: table[name].to_pylist() for name in read}
    except UserError:
        raise
    except Exception as error:  # pyarrow raises its own exception types
        raise UserError(
            f"{path} is not a complete Parquet file: {first_line(error)}",
            "Write it again, or download it again.",
        ) from error
    empty = [None] * file.metadata.num_rows
    columns = zip(*(values.get(name, empty) for name in names), strict=True)
    return Table(path, tuple(names), list(enumerate(columns, start=1)))


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of a JSON object. Raises ValueError if a key repeats: one value would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key '{twice}' is repeated")
    return content


def _by_file(content: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    """Yield number (from 1) and record of each entry of {file: label} or {file: {column: value}}.

    A label may be a list of labels. A record maps columns to values.
    """
    for number, (file, value) in enumerate(content.items(), start=1):
        own = value if isinstance(value, dict) else {"label": value}
        yield number, {"file": file, **own}


def _coco(content: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Make a record per image of COCO's layout, with the distinct categories of its annotations.

    Raises UserError if images or annotations have another form.
    """
    try:
        names = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
        labels: dict[Any, dict[str, None]] = defaultdict(dict)
        for annotation in content["annotations"]:
            label = annotation["category_id"]
            labels[annotation["image_id"]][names.get(label, str(label))] = None
        return [
            {"file": image["file_name"], "labels": list(labels.get(image["id"], ()))}
            for image in content["images"]
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} has images and annotations in another form than COCO's: {error!r}.", ACCEPTED
        ) from error


def _of_records(path: Path, records: "Iterator[tuple[int, Any]] | enumerate[Any]") -> Table:
    columns: dict[str, int] = {}
    values: list[tuple[int, dict[str, Any]]] = []
    for number, record in records:
        if not isinstance(record, dict):
            raise UserError(
                f"{path}, row {number}, is not a record of columns and values.", ACCEPTED
            )
        values.append((number, record))
        for column in record:
            columns.setdefault(column, len(columns))
    rows = [(number, tuple(map(record.get, columns))) for number, record in values]
    return Table(path, tuple(columns), rows)


def _text(path: Path) -> str:
    """Read text: UTF-16 with a byte order mark, or UTF-8.

    Bytes that are not UTF-8 become surrogates, as in file names.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "surrogateescape")  # as Python decodes the names of files
