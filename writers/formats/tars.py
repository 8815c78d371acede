"""Read tar archives without unpacking: list names and offsets of members once, then read by offset.

`tarfile` needs a kilobyte per member and accepts an archive that was cut between two members. Here
a member takes about 200 bytes (measured with ImageNet's training tar), and an archive without its
end mark is refused.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from writers.errors import UserError
from writers.formats.image_formats import extension_of
from writers.formats.members import check_name, check_size, outside, twice
from writers.text_names import decoded

BLOCK = 512  # bytes; headers and contents begin at multiples of it
WINDOW = 4096  # bytes read at once; enough for a header with an extended header before it
REGULAR = b"0\0" + b"7"  # types of files: regular, old format without types, contiguous
FOLDER = b"5"
# types of links, devices, folders, pipes: they have no content, even if the header has a size
WITHOUT_DATA = b"123456"
SIZE_BITS, OFFSET_BITS = 32, 56  # bits of a size and of an offset in `TarFiles._places`
MAX_EXTENDED_BYTES = 2**20  # bytes of names and attributes of a member; paths have at most 4 KiB


class Member(NamedTuple):
    """A member of an archive."""

    name: str  # normalized: separated by /, without parts that are empty, `.` or `..`
    kind: bytes  # type in the header
    offset: int  # offset of its first byte in the file that contains the archive
    size: int  # bytes

    @property
    def is_file(self) -> bool:
        """True for a regular file."""
        return self.kind in REGULAR

    @property
    def is_folder(self) -> bool:
        """True for a folder."""
        return self.kind == FOLDER


class TarFiles:
    """Files at known offsets in one or several archives; thread-safe."""

    def __init__(self) -> None:
        self._archives: list[Path] = []
        self._places: dict[
            str, int
        ] = {}  # archive, offset and size in one integer: a third of a tuple's memory

    def add(self, name: str, archive: Path, member: Member) -> None:
        """Add a member. Raises UserError if the name exists or the member is too large."""
        if not self._archives or self._archives[-1] is not archive:
            self._archives.append(archive)
        if name in self._places:
            raise twice(archive, name)
        check_size(archive, name, member.size)
        place = (len(self._archives) - 1) << OFFSET_BITS | member.offset
        self._places[name] = place << SIZE_BITS | member.size

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        return list(self._places)

    def read(self, name: str) -> bytes:
        """Read one file. Raises OSError."""
        archive, offset, size = self._place(name)
        with archive.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise OSError(f"the archive ends inside {name}")
        return data

    def head(self, name: str, size: int) -> bytes:
        """Read the first bytes. Raises OSError."""
        archive, offset, num_bytes = self._place(name)
        with archive.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), min(size, num_bytes), offset)

    def where(self, name: str) -> str:
        """Describe the location of a file for messages."""
        return f"{self._place(name)[0]}:{name}"

    def _place(self, name: str) -> tuple[Path, int, int]:
        place, size = divmod(self._places[name], 1 << SIZE_BITS)
        number, offset = divmod(place, 1 << OFFSET_BITS)
        return self._archives[number], offset, size


def open_tar(path: Path, keep: Callable[[str], bool]) -> TarFiles:
    """List the members whose names `keep` accepts.

    Raises:
        UserError: a listed member is a link, too large or there twice; or any error of `members`.
    """
    files = TarFiles()
    with path.open("rb", buffering=0) as archive:
        for member in members(archive.fileno(), path):
            if member.is_folder or (not member.is_file and not extension_of(member.name)):
                continue
            if keep(member.name):
                refuse_link(member, path)
                files.add(member.name, path, member)
    return files


def refuse_link(member: Member, path: Path) -> None:
    """Raise UserError for a member that is not a regular file."""
    if not member.is_file:
        raise UserError(
            f"{path}: {member.name} is a link or a special file, which is not read.",
            "Pack the files themselves: tar --dereference --hard-dereference.",
        )


def looks_like_tar(path: Path) -> bool:
    """Return True if the file begins like an uncompressed tar."""
    with path.open("rb") as file:
        header = file.read(BLOCK)
    return len(header) == BLOCK and (not any(header) or _checksum_fits(header))


def members(handle: int, path: Path, begin: int = 0, end: int | None = None) -> Iterator[Member]:
    """List the members of an archive between two offsets of a file, links and folders included.

    Supports ustar, and long names and sizes of GNU and POSIX.

    Args:
        handle: descriptor of the open file.
        path: name of the archive for errors.
        begin: first byte of the archive.
        end: end of the archive. None means the end of the file.

    Raises:
        UserError: not a tar, damaged, cut short, several archives joined, or a name that points
            outside the archive.
    """
    end = os.fstat(handle).st_size if end is None else end
    read = _Window(handle, end)
    offset, long_name, long_size = begin, "", -1
    while True:
        header = read(offset, BLOCK)
        if len(header) < BLOCK:
            raise UserError(
                f"{path} is not a complete, uncompressed tar archive: it has no end mark.", _FETCH
            )
        if not any(header):
            _refuse_further_archive(handle, path, offset, end)
            return
        if not _checksum_fits(header):
            raise UserError(
                f"{path} is not a complete, uncompressed tar archive: no member begins at byte "
                f"{offset:,}.",
                _FETCH,
            )
        kind, data = header[156:157], offset + BLOCK
        size = (
            0
            if kind in WITHOUT_DATA
            else _size(header, path)
            if long_size < 0 or kind in b"xgLK"
            else long_size
        )
        offset = data + -(-size // BLOCK) * BLOCK
        name = long_name or _name(header)
        if data + size > end:
            raise UserError(
                f"{path} is not a complete, uncompressed tar archive: it ends inside {name}.",
                _FETCH,
            )
        if kind in b"Lx" and size > MAX_EXTENDED_BYTES:
            raise UserError(f"{path} is damaged: an extended header has {size:,} bytes.", _FETCH)
        if kind == b"L":
            long_name = decoded(read(data, size).rstrip(b"\0"))
        elif kind == b"x":
            long_name, long_size = _extended(read(data, size), path, long_name)
        elif kind not in b"gK":  # skip global headers and long targets of links
            yield Member(_checked(name, path), kind, data, size)
            long_name, long_size = "", -1


def _refuse_further_archive(handle: int, path: Path, offset: int, end: int) -> None:
    """Raise UserError if a member follows the end mark, as in archives that were joined by `cat`.

    All other bytes after the end mark are padding.
    """
    while offset < end:
        window = os.pread(handle, min(MAX_EXTENDED_BYTES, end - offset), offset)
        if not window:
            return
        content = window.lstrip(b"\0")
        if content:
            begin = (len(window) - len(content)) // BLOCK * BLOCK
            header = os.pread(handle, BLOCK, offset + begin)
            if len(header) == BLOCK and _checksum_fits(header):
                raise UserError(
                    f"{path} has further members after its end mark, at byte {offset + begin:,}: "
                    "several archives were joined.",
                    "Unpack it with tar --ignore-zeros, or pass each archive as a --source.",
                )
            return
        offset += len(window)


_FETCH = "Download it again, or pack it again without compression."


class _Window:
    """Read bytes through a buffer of WINDOW bytes, to save system calls."""

    def __init__(self, handle: int, end: int) -> None:
        self._handle, self._end = handle, end
        self._start, self._data = 0, b""

    def __call__(self, offset: int, size: int) -> bytes:
        """Return the requested bytes, or fewer at the end of the archive."""
        if not self._start <= offset <= offset + size <= self._start + len(self._data):
            self._start = offset
            self._data = os.pread(
                self._handle, max(0, min(max(size, WINDOW), self._end - offset)), offset
            )
        return self._data[offset - self._start : offset - self._start + size]


def _checksum_fits(header: bytes) -> bool:
    """Check the sum of the header's bytes, with spaces in place of the checksum itself.

    Sums of signed bytes are accepted, too: some old programs wrote them.
    """
    try:
        stated = _number(header[148:156])
    except ValueError:
        return False
    others = header[:148] + header[156:]
    total = sum(others) + 8 * ord(" ")
    return stated == total or stated == total - 256 * sum(byte > 127 for byte in others)


def _number(digits: bytes) -> int:
    """Parse a number: octal, or base 256 if the first bit is set. Raises ValueError for others."""
    if digits[0] & 0x80:
        return int.from_bytes(digits, "big") & ((1 << (8 * len(digits) - 1)) - 1)
    text = digits.split(b"\0", 1)[0].strip()
    if text and not text.isdigit():  # int() would accept a sign
        raise ValueError(f"{text!r} is not a number")
    return int(text or b"0", 8)


def _size(header: bytes, path: Path) -> int:
    try:
        return _number(header[124:136])
    except ValueError as error:
        raise UserError(
            f"{path} is not a complete, uncompressed tar archive: the size of a member is not a "
            "number.",
            _FETCH,
        ) from error


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return decoded(name)


def _extended(records: bytes, path: Path, name: str) -> tuple[str, int]:
    """Read name and size from POSIX's extended header, repeated `<length> <keyword>=<value>` lines.

    Size is -1 if it is not given. Raises UserError if the header is damaged or is that of a sparse
    file.
    """
    size = -1
    if b"path=" not in records and b"size=" not in records and b"GNU.sparse" not in records:
        return name, size  # most headers only have times
    try:
        while records:
            digits, rest = records.split(b" ", 1)
            length = int(digits) if digits.isdigit() else 0
            # The loop would never end at a record that is shorter than its length field.
            if not len(digits) + 2 < length <= len(records):
                raise ValueError(f"a record has the length {digits!r}")
            keyword, value = rest[: length - len(digits) - 2].split(b"=", 1)
            records = records[length:]
            if keyword == b"path":
                name = decoded(value)
            elif keyword == b"size":
                size = _number(b"%o" % int(value))
            elif keyword.startswith(b"GNU.sparse"):
                raise UserError(
                    f"{path} holds sparse files (GNU), which are not supported.",
                    "Pack it without --sparse.",
                )
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: one of its extended headers is invalid.", _FETCH
        ) from error
    return name, size


def _checked(name: str, path: Path) -> str:
    """Normalize a name: remove empty parts and `.`. Raises UserError for `..`."""
    check_name(path, name)
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise outside(path, name)
    return (
        name
        if "" not in parts and "." not in parts
        else "/".join(part for part in parts if part not in ("", "."))
    )
