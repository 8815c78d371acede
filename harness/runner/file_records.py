"""Record the state of input files, to recognize unchanged contents without reading files again.

    $HARNESS_RUNS/inputs/<input>/states.json                  state -> contents
    $HARNESS_RUNS/inputs/<input>/<listing>/<stage key>.files  size, time and sha256 of each file

`<input>` is a hash of the input's name. State and contents of a dataset are digests. The state is
computed from names, sizes and modification times, so an unchanged dataset is recognized without
opening a file. The contents are the digest of the listing (names, sizes, labels), `<listing>`. If
only the time of a file has changed, the file is read and compared with the records of the stages
that used it. If its bytes differ, the contents also get a digest of the changed files.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.config.inputs import Images
from harness.system.atomic_write import write_atomically
from writers.raw_files import (
    FileState,
    Listing,
    content_digest,
    digest_of_table,
    listing_of,
    state_of,
    walk,
)

MAX_STATES = 100  # states kept per input; if files return to an older state, they are read again
NUM_READERS = 8
TOUCHED = "touched.files"  # records of files that were read again and had not changed
EXTENSION = ".files"

# Called before files are read again, with their number and bytes.
OnRead = Callable[[int, int], None]


class FileRecord(NamedTuple):
    """State of a file and the sha256 of its content."""

    state: FileState
    sha256: str


class States(BaseModel):
    """Content of states.json.

    Attributes:
        input: name of the input, for people who read the file.
        contents: state -> contents; the latest state last.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: str
    contents: dict[str, str] = {}

    @property
    def last(self) -> str | None:
        """Contents of the latest state; None if no state is known."""
        return next(reversed(self.contents.values()), None)


def folder_of(name: str, runs: Path) -> Path:
    """Return the folder with the records of an input."""
    return runs / "inputs" / hashlib.sha256(name.encode()).hexdigest()[:20]


def read_states(name: str, runs: Path) -> States:
    """Read the known states of an input; empty if there is no valid record."""
    try:
        text = (folder_of(name, runs) / "states.json").read_text()
        return States.model_validate_json(text)
    except (OSError, ValueError, ValidationError):
        return States(input=name)


def remember(name: str, runs: Path, state: str, contents: str) -> None:
    """Record that files in this state have these contents. Ignores a disk that is not writable."""
    known = dict(read_states(name, runs).contents)
    known.pop(state, None)
    known[state] = contents
    latest = dict(list(known.items())[-MAX_STATES:])
    text = States(input=name, contents=latest).model_dump_json(indent=1)
    with suppress(OSError):
        write_atomically(folder_of(name, runs) / "states.json", f"{text}\n".encode())


def contents_of_images(
    images: Images,
    raw: Path,
    runs: Path,
    on_read: OnRead = lambda files, num_bytes: None,
    files: Mapping[str, FileState] | None = None,
) -> str:
    """Determine the contents of a dataset's raw files.

    Args:
        images: dataset whose files are examined.
        raw: folder of raw downloads.
        runs: folder of stages.
        on_read: called before files are read.
        files: present states of the files. None means that this function lists the files; it
            keeps the list in memory only if the state is not known.

    Returns:
        Digest of the listing. If files with equal sizes have other bytes than before, a dash and a
        digest of these files follow.

    Raises:
        OSError: the files are missing or unreadable.
    """
    path = images.path(raw)
    state = state_of(walk(path) if files is None else files.items())
    table = images.table(raw)
    if table is not None:
        for file in table.paths:
            file.stat()
        state = f"{state} {digest_of_table(table)}"
    known = read_states(images.name, runs)
    if state in known.contents:
        if known.last != known.contents[state]:
            remember(images.name, runs, state, known.contents[state])
        return known.contents[state]
    files = dict(walk(path)) if files is None else files
    data = images.data
    listing = listing_of(data.dataset, path, data.protocol, files, table, data.folders)
    contents = _compare(images.name, runs, path, listing, files, on_read)
    remember(images.name, runs, state, contents)
    return contents


def contents_of_file(name: str, path: Path, runs: Path) -> str:
    """Return the first 20 hex digits of a file's sha256.

    Reads the file only if its size or modification time has changed.

    Raises:
        OSError: the file is missing or unreadable.
    """
    stat = path.stat()
    state = f"{stat.st_size} {stat.st_mtime_ns}"
    known = read_states(name, runs)
    if state not in known.contents:
        digest = content_digest(path)
        assert digest is not None  # only a stopped computation returns None
        remember(name, runs, state, digest[:20])
        return digest[:20]
    if known.last != known.contents[state]:
        remember(name, runs, state, known.contents[state])
    return known.contents[state]


def read_records(name: str, runs: Path, contents: str) -> dict[str, FileRecord]:
    """Read the records of an input with these contents, as file name -> record.

    If several stages recorded a file, the oldest record is returned. A record in TOUCHED replaces
    it if the sha256 is equal.
    """
    records: dict[str, FileRecord] = {}
    folder = folder_of(name, runs) / contents.partition("-")[0]
    try:
        files = sorted(folder.glob(f"*{EXTENSION}"), key=lambda file: file.stat().st_mtime_ns)
    except OSError:
        return {}
    for file in files:
        if file.name != TOUCHED:
            for file_name, record in _parse(file):
                records.setdefault(file_name, record)
    for file_name, record in _parse(folder / TOUCHED):
        if file_name in records and records[file_name].sha256 == record.sha256:
            records[file_name] = record
    return records


def write_records(
    name: str, runs: Path, contents: str, key: str, records: Mapping[str, FileRecord]
) -> None:
    """Record the files that a write stage used.

    Args:
        name: name of the input.
        runs: folder of stages.
        contents: contents of the input.
        key: key of the stage.
        records: file name -> record, of the files that had no record before.
    """
    if records:
        folder = folder_of(name, runs) / contents.partition("-")[0]
        write_atomically(folder / f"{key}{EXTENSION}", _serialize(records))


def digests_of(
    path: Path, names: Collection[str], is_stopped: Callable[[], bool] = lambda: False
) -> dict[str, str]:
    """Read files below a path in several threads; return name -> sha256.

    `path` may itself be the only file. Stops when `is_stopped` returns True, and leaves out the
    remaining files.

    Raises:
        OSError: a file cannot be read.
    """
    if len(names) == 1 and path.is_file():
        digests = {next(iter(names)): content_digest(path, is_stopped)}
    else:
        with ThreadPoolExecutor(NUM_READERS, "harness-digest") as pool:
            ordered = sorted(names)
            found = pool.map(lambda name: content_digest(path / name, is_stopped), ordered)
            digests = dict(zip(ordered, found, strict=True))
    return {name: digest for name, digest in digests.items() if digest is not None}


def _compare(
    name: str,
    runs: Path,
    path: Path,
    listing: Listing,
    files: Mapping[str, FileState],
    on_read: OnRead,
) -> str:
    """Read the files whose times differ from their records; return the contents."""
    records = read_records(name, runs, listing.digest)
    doubtful = [
        file
        for file in sorted(listing.counted & records.keys())
        if files[file] != records[file].state
    ]
    if not doubtful:
        return listing.digest
    on_read(len(doubtful), sum(files[file].num_bytes for file in doubtful))
    digests = digests_of(path, doubtful)
    changed = {file: digests[file] for file in doubtful if digests[file] != records[file].sha256}
    touched = {
        file: FileRecord(files[file], digests[file]) for file in doubtful if file not in changed
    }
    if touched:
        folder = folder_of(name, runs) / listing.digest
        earlier = dict(_parse(folder / TOUCHED))
        with suppress(OSError):
            write_atomically(folder / TOUCHED, _serialize(earlier | touched))
    if not changed:
        return listing.digest
    text = json.dumps(changed, sort_keys=True)
    return f"{listing.digest}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _serialize(records: Mapping[str, FileRecord]) -> bytes:
    return b"".join(
        f"{state.num_bytes} {state.changed_ns} {sha256} ".encode() + os.fsencode(name) + b"\0"
        for name, (state, sha256) in records.items()
    )


def _parse(file: Path) -> Iterator[tuple[str, FileRecord]]:
    try:
        content = file.read_bytes()
    except OSError:
        return
    for line in content.split(b"\0"):
        num_bytes, _, rest = line.partition(b" ")
        changed_ns, _, rest = rest.partition(b" ")
        sha256, _, name = rest.partition(b" ")
        if name and num_bytes.isdigit():
            state = FileState(int(num_bytes), int(changed_ns))
            yield os.fsdecode(name), FileRecord(state, sha256.decode())
