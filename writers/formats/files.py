"""Read files below a folder or in an archive by name: list them once, read them in any thread."""

import errno
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from writers.errors import UserError
from writers.formats.image_formats import MAX_IMAGE_BYTES, is_image
from writers.formats.tars import looks_like_tar, open_tar
from writers.formats.zips import ZipFiles

# Folders that systems and programs add to a tree; folders with a leading dot are hidden as well.
SYSTEM_FOLDERS = frozenset(
    ("lost+found", "@eadir", "#recycle", "@recycle", "#snapshot", "@tmp", "$recycle.bin")
) | {"system volume information", "__macosx", "__pycache__"}

SYSTEM = "hidden and system folders"
CIRCULAR = "links to themselves or to a folder around them"
ZIP_BEGIN = b"PK\3\4"
# First bytes of packed files that people download -> description of the format
PACKED = {
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\0": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"Rar!\x1a\7": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
}


class Files(Protocol):
    """The files of a folder or an archive."""

    def names(self) -> Sequence[str]:
        """Paths relative to the root, with / as separator."""

    def read(self, name: str) -> bytes:
        """Read a file's bytes; thread-safe. Raises OSError."""

    def where(self, name: str) -> str:
        """Describe the file for an error message."""


class ListedFiles(Files, Protocol):
    """Files of one folder or archive, whose first bytes can be read alone."""

    def head(self, name: str, size: int) -> bytes:
        """Read the first `size` bytes, or all if there are fewer. Raises OSError."""


OnSkipped = Callable[[str, str], None]  # name of a folder that is not entered, reason


def open_files(
    path: Path,
    keep: Callable[[str], bool] | None = None,
    on_skipped: OnSkipped = lambda name, reason: None,
) -> ListedFiles:
    """List the files below a folder, or in an uncompressed tar or a zip.

    Args:
        path: folder or archive.
        keep: returns True for the paths to list. None means images.
        on_skipped: called for each folder that is not entered.

    Raises:
        UserError: the path is not a folder, a tar or a zip, or cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return FolderFiles(path, keep or is_image, on_skipped)
        if path.is_file():
            # `is_zipfile` looks at the end of a file: it is also True for a tar that ends in a zip
            is_zip = not looks_like_tar(path) and zipfile.is_zipfile(path)
            if not is_zip:
                _refuse_packed(path)
            return (ZipFiles if is_zip else open_tar)(path, keep or is_image)
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read: {error.strerror or error}."
        ) from error
    raise UserError(
        f"There is no folder or archive {path}.",
        "Check the path. It is relative to the working directory; in a recipe, to $HARNESS_RAW.",
    )


def _refuse_packed(path: Path) -> None:
    """Raise UserError if a file is an archive or a compressed file of a kind that is not read."""
    with path.open("rb") as file:
        begin = file.read(8)
    for magic, kind in PACKED.items():
        if begin.startswith(magic):
            raise UserError(f"{path} is {kind}, which is not read.", "Unpack it; pass the folder.")
    if begin.startswith(ZIP_BEGIN):
        raise UserError(f"{path} is a zip archive without its end.", "Download it again.")


def is_system_folder(name: str) -> bool:
    """Return True for hidden folders, and for folders that systems and programs add."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def shards_in(folder: Path, extension: str) -> list[Path]:
    """List the files with an extension in a folder, its data/ or its split folders, sorted.

    If one of these folders has folders in it, its files are skipped: a table or an archive in a
    tree of class folders is not a shard.
    """
    places = [
        folder,
        *(
            place
            for name in ("data", "train*", "val*", "test*")
            for place in sorted(folder.glob(name))
        ),
    ]
    return [
        shard
        for place in places
        if place.is_dir() and not _has_folders(place)
        for shard in sorted(place.glob(f"*{extension}"))
        if shard.is_file()
    ]


class FolderFiles:
    """Files below a folder whose names pass `keep`."""

    def __init__(
        self,
        root: Path,
        keep: Callable[[str], bool],
        on_skipped: OnSkipped = lambda name, reason: None,
    ) -> None:
        self._root = root
        self._names = [name for name in _walk(str(root), on_skipped) if keep(name)]

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        return self._names

    def read(self, name: str) -> bytes:
        """Read one file. Raises OSError."""
        path = f"{self._root}/{name}"
        handle = os.open(path, os.O_RDONLY)  # half the system calls of open()
        try:
            size = os.fstat(handle).st_size
            if size > MAX_IMAGE_BYTES:
                raise OSError(f"the file has {size:,} bytes, more than an image")
            data = os.read(handle, size)
        finally:
            os.close(handle)
        return data if len(data) == size else Path(path).read_bytes()

    def head(self, name: str, size: int) -> bytes:
        """Read the first bytes. Raises OSError."""
        with (self._root / name).open("rb", buffering=0) as file:
            return file.read(size)

    def where(self, name: str) -> str:
        """Describe the location of a file for messages."""
        return str(self._root / name)


class JoinedFiles:
    """Several folders or archives as one. If two have a file of one name, the first is read."""

    def __init__(self, parts: Sequence[Files]) -> None:
        self._part_of = {name: part for part in reversed(parts) for name in part.names()}

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        return list(self._part_of)

    def read(self, name: str) -> bytes:
        """Read one file. Raises OSError."""
        return self._part_of[name].read(name)

    def where(self, name: str) -> str:
        """Describe the location of a file for messages."""
        return self._part_of[name].where(name)


def _has_folders(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)


def _walk(root: str, on_skipped: OnSkipped) -> Iterator[str]:
    """List the files below a folder, except those in hidden and system folders.

    Raises:
        UserError: a pipe, socket or device has the name of an image. Reading it may never end.
    """
    for name, entry in entries_below(root, is_system_folder, on_skipped):
        if entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()):
            yield name
        elif is_image(entry.name):
            raise UserError(f"{entry.path} is a pipe, socket or device, not a file.", "Remove it.")


def entries_below(
    root: str,
    is_skipped: Callable[[str], bool],
    on_skipped: OnSkipped = lambda name, reason: None,
) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield all entries below a folder that are not folders, with names relative to `root`.

    The entries of each folder are ordered by name. Circular links are not followed.

    Args:
        root: the folder.
        is_skipped: returns True for the names of folders that are not entered.
        on_skipped: called for each folder that is not entered.

    Raises:
        OSError: a folder cannot be read.
    """
    levels = [_Level.open(root, "")]  # the folders around the current entry
    while levels:
        entry = next(levels[-1].entries, None)
        if entry is None:
            levels.pop()
        elif _is_own_target(entry):
            on_skipped(levels[-1].prefix + entry.name, CIRCULAR)
        elif not entry.is_dir():
            yield levels[-1].prefix + entry.name, entry
        elif is_skipped(entry.name):
            on_skipped(levels[-1].prefix + entry.name, SYSTEM)
        else:
            inner = _Level.open(entry.path, f"{levels[-1].prefix}{entry.name}/")
            if all(inner.identity != level.identity for level in levels):
                levels.append(inner)
            else:
                on_skipped(levels[-1].prefix + entry.name, CIRCULAR)


def _is_own_target(entry: "os.DirEntry[str]") -> bool:
    """Return True for a link that leads back to itself, also by way of other links."""
    if not entry.is_symlink():
        return False
    try:
        entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise
    return False


class _Level(NamedTuple):
    """A folder on the way to the current entry: device and inode, remaining entries, prefix."""

    identity: tuple[int, int]
    entries: Iterator["os.DirEntry[str]"]
    prefix: str

    @classmethod
    def open(cls, folder: str, prefix: str) -> "_Level":
        stat = os.stat(folder)  # noqa: PTH116
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        return cls((stat.st_dev, stat.st_ino), iter(ordered), prefix)
