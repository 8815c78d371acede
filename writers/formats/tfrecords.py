"""Read TFRecord files of tf.train.Example without TensorFlow.

A file is read once to find the offset of each value.

A file is a sequence of records: length (8 bytes), checksum (4), data, checksum (4). The data are a
protocol buffer: Example { Features features = 1 }, Features { map<string, Feature> feature = 1 },
Feature { BytesList = 1, FloatList = 2, Int64List = 3 }. Checksums (CRC-32C) are not checked; a file
that is cut short is still detected.
"""

import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BYTES = 2  # wire type of length-delimited fields in protocol buffers


class DamagedRecordError(Exception):
    """The file is not a complete sequence of examples."""


@dataclass(frozen=True, slots=True)
class Place:
    """A range of bytes in a file."""

    file: Path
    offset: int
    size: int


class PlacesInFiles:
    """Ranges of bytes as files of a source."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        return list(self._places)

    def read(self, name: str) -> bytes:
        """Read one file. Raises OSError."""
        place = self._places[name]
        with place.file.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), place.size, place.offset)
        if len(data) != place.size:
            raise OSError(f"the file ends inside {name}")
        return data

    def where(self, name: str) -> str:
        """Describe the location of a file for messages."""
        return f"{self._places[name].file}, record {name.rpartition('/')[2]}"


def read_examples(file: Path) -> Iterator[dict[str, Place | int]]:
    """Read the first value of each feature of each record.

    Byte strings are returned as their place in the file, and integers as numbers; floats are
    skipped. Raises DamagedRecordError.
    """
    if not file.stat().st_size:
        return
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = 0
        while start < len(data):
            if start + 12 > len(data):
                raise DamagedRecordError(f"it ends inside the record at byte {start}")
            end = start + 12 + struct.unpack_from("<Q", data, start)[0]
            if end + 4 > len(data):
                raise DamagedRecordError(f"it ends inside the record at byte {start}")
            yield dict(_features(data, start + 12, end, file))
            start = end + 4


def _features(
    data: mmap.mmap, start: int, end: int, file: Path
) -> Iterator[tuple[str, Place | int]]:
    for _, features_start, features_end in _fields(data, start, end):
        for _, entry_start, entry_end in _fields(data, features_start, features_end):
            parts = {
                number: (first, last)
                for number, first, last in _fields(data, entry_start, entry_end)
            }
            if set(parts) != {1, 2}:
                raise DamagedRecordError(f"byte {entry_start} is not the start of a feature")
            name = data[slice(*parts[1])].decode(errors="replace")
            for kind, list_start, list_end in _fields(data, *parts[2]):
                value = _first_value(data, kind, list_start, list_end, file)
                if value is not None:
                    yield name, value


def _first_value(
    data: mmap.mmap, kind: int, start: int, end: int, file: Path
) -> Place | int | None:
    if kind == 1:  # BytesList { repeated bytes value = 1 }
        return next(
            (Place(file, first, last - first) for _, first, last in _fields(data, start, end)), None
        )
    if kind == 3 and start < end:  # Int64List { repeated int64 value = 1 [packed] }, packed or not
        tag, place = _varint(data, start, end)
        if tag & 7 == BYTES:
            _, place = _varint(data, place, end)
        return _varint(data, place, end)[0]
    return None


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, begin and end of each field of a message of length-delimited fields.

    Raises DamagedRecordError for other fields, or if a field exceeds the message.
    """
    while start < end:
        tag, start = _varint(data, start, end)
        if tag & 7 != BYTES:
            raise DamagedRecordError(f"byte {start} has no field with a length")
        size, start = _varint(data, start, end)
        if start + size > end:
            raise DamagedRecordError(f"the field at byte {start} is longer than its message")
        yield tag >> 3, start, start + size
        start += size


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Decode a varint (seven bits per byte, lowest first); return its value and its end.

    Raises DamagedRecordError if it does not end.
    """
    value = 0
    for place in range(start, min(end, start + 10)):
        value |= (data[place] & 0x7F) << (7 * (place - start))
        if data[place] < 0x80:
            return value, place + 1
    raise DamagedRecordError(f"the number at byte {start} does not end")
