"""Raw files of a dataset: their names, sizes and times, and a digest of the files that are read.

`walk` lists files without opening them. `listing_of` keeps the files that the dataset's reader
uses: its images, or the archives that contain them. Other files, such as a README in a tree of
class folders, do not affect the digest.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from writers.dataset import open_dataset
from writers.errors import UserError
from writers.folder_rules import BY_NAME, FolderRules
from writers.formats.files import Files, entries_below
from writers.labels.rows import check_file
from writers.labels.settings import LabelTable
from writers.regular_file import open_regular
from writers.source import Example, Source, SplitSettings

DOCUMENTATION = ("readme", "license", "licence", "changelog", "citation")
READ_BYTES = 1 << 20  # bytes of a file that are read at once
LINES_AT_ONCE = 4096  # lines per update of a digest


class FileState(NamedTuple):
    """Size and modification time of a file. A tuple saves memory: a dataset has millions."""

    num_bytes: int
    changed_ns: int


@dataclass(frozen=True)
class Listing:
    """The files that a dataset reads.

    Attributes:
        digest: digest of names, sizes, labels and splits, 20 hex digits.
        counted: names of the files that affect the digest, relative to the dataset's path.
    """

    digest: str
    counted: frozenset[str]


def walk(path: Path) -> Iterator[tuple[str, FileState]]:
    """Yield name and state of the files below a path, in order of names, without hidden folders.

    Circular links are not followed. A broken link is yielded like a file. If the path is a file,
    that file is yielded under its name.

    Raises:
        OSError: the path, or a folder below it, cannot be read.
    """
    if path.is_dir():
        for name, entry in entries_below(str(path), lambda folder: folder.startswith(".")):
            # A broken link is yielded like a file, with the state of the link.
            stat = entry.stat(follow_symlinks=entry.is_file())
            yield name, FileState(stat.st_size, stat.st_mtime_ns)
    else:
        stat = path.stat()
        yield path.name, FileState(stat.st_size, stat.st_mtime_ns)


def state_of(files: Iterable[tuple[str, FileState]]) -> str:
    """Return a digest of names, sizes and modification times, 64 hex digits."""
    digest = hashlib.sha256()
    lines: list[str] = []
    for name, state in files:
        lines.append(f"{name}\0{state.num_bytes} {state.changed_ns}\n")
        if len(lines) == LINES_AT_ONCE:
            digest.update("".join(lines).encode(errors="surrogateescape"))
            lines.clear()
    digest.update("".join(lines).encode(errors="surrogateescape"))
    return digest.hexdigest()


def digest_of_table(labels: LabelTable) -> str | None:
    """Return a digest of a table of labels and its settings, 20 hex digits; None if unreadable."""
    digest = hashlib.sha256(labels.model_dump_json(exclude={"files"}).encode())
    try:
        for path in labels.paths:
            check_file(path)
            content = content_digest(path)
            assert content is not None  # it is None only if `is_stopped` is given
            digest.update(f"{path.name}\0{content}\n".encode(errors="surrogateescape"))
    except (OSError, UserError):
        return None
    return digest.hexdigest()[:20]


def listing_of(
    dataset: str,
    path: Path,
    protocol: str | None,
    files: Mapping[str, FileState],
    labels: LabelTable | None = None,
    folders: FolderRules = BY_NAME,
) -> Listing:
    """List the files that the dataset's reader uses at a path.

    If the reader refuses the path, the listing has all files.

    Args:
        dataset: name in `writers/datasets`.
        path: folder or archive.
        protocol: name of the splits; None means the dataset's default.
        files: result of `walk`.
        labels: table of the images' labels, if there is one.
        folders: which folders of a tree are splits, and which are classes.
    """
    settings = SplitSettings(val=0.0, test=0.0, protocol=protocol, folders=folders)
    try:
        source = open_dataset(dataset, path, settings, labels)
    except UserError:
        names = sorted(files)
        table = [] if labels is None else [f"{digest_of_table(labels)}\n"]
        return Listing(_digest([*_sizes(names, files), *table]), frozenset(names))
    return _listing(source, files)


def containers(source: Source, files: Mapping[str, FileState]) -> frozenset[str]:
    """Return the names of the files that may contain images, such as archives and shards.

    Empty if each image is a separate file.
    """
    keys = {source.prefix + example.key for split in source.splits.values() for example in split}
    if keys <= files.keys():
        return frozenset()
    return frozenset(name for name in files if name not in keys and not _is_documentation(name))


def content_digest(path: Path, is_stopped: Callable[[], bool] = lambda: False) -> str | None:
    """Return the sha256 of a file, or None if `is_stopped` returns True. Raises OSError."""
    digest = hashlib.sha256()
    with open_regular(path, buffering=0) as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            if is_stopped():
                return None
    return digest.hexdigest()


class DigestedFiles:
    """Files that record the sha256 of each file that is read. Thread-safe."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = Lock()
        self.digests: dict[str, tuple[int, str]] = {}  # name -> number of bytes, sha256

    def names(self) -> Sequence[str]:
        """List the names of the files."""
        return self._files.names()

    def read(self, name: str) -> bytes:
        """Read one file. Raises OSError."""
        data = self._files.read(name)
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            self.digests[name] = len(data), digest
        return data

    def where(self, name: str) -> str:
        """Describe the location of a file for messages."""
        return self._files.where(name)


def _listing(source: Source, files: Mapping[str, FileState]) -> Listing:
    order = [f"{json.dumps(source.classes)}\n"] if source.multi_label else []  # label order
    lines = [
        _line(split, source, example, files)
        for split, examples in source.splits.items()
        for example in examples
    ]
    held_in = sorted(containers(source, files))
    keys = {source.prefix + example.key for split in source.splits.values() for example in split}
    return Listing(
        _digest([*sorted(lines), *order, *_sizes(held_in, files)]),
        frozenset(held_in) | (keys & files.keys()),
    )


def _line(split: str, source: Source, example: Example, files: Mapping[str, FileState]) -> str:
    state = files.get(source.prefix + example.key)
    size = state.num_bytes if state is not None else -1
    labels = example.labels or source.classes[example.label]
    boxes = "" if example.boxes is None else f"\0{[astuple(box) for box in example.boxes]}"
    return f"{split}\0{example.key}\0{labels}{boxes}\0{size}\n"


def _sizes(names: Sequence[str], files: Mapping[str, FileState]) -> list[str]:
    return [f"{name}\0{files[name].num_bytes}\n" for name in names]


def _digest(lines: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:20]


def _is_documentation(name: str) -> bool:
    file = name.rsplit("/", 1)[-1].lower()
    return file.startswith((".", *DOCUMENTATION)) or file.endswith(".md")
