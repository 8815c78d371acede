"""Record from which raw files a `.beton` file was written, and how they were split.

A manifest does not depend on clock or machine, so it cannot show whether the raw files have
changed. A separate record, `train.beton.origin.json`, shows it. Raw files are considered unchanged
if their names, sizes and modification times are equal, as in rsync and git. If two origins are
equal, images of the same name are the same file, and need not be decoded again
(`writers/beton/reuse.py`). A beton without a record is valid, but its origin is unknown.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from writers.beton.store import Manifest, read_manifest
from writers.dataset import open_dataset
from writers.labels.settings import LabelTable
from writers.lock import locked
from writers.raw_files import digest_of_table, walk
from writers.source import Source, SplitSettings


class Origin(BaseModel):
    """Origin of a beton: its raw files and the settings that assign images to splits and labels.

    If two origins are equal, images of the same name and split have the same bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dataset: str
    val: float  # fraction of the training images drawn for val, as in SplitSettings
    test: float
    split_seed: int
    protocol: str | None
    files: str  # sha256 of names, sizes and modification times of all source files
    folders: str | None = None  # how folders map to classes and splits; None means the default
    labels: str | None = None  # digest of the table of labels and its settings; None without one


def open_with_origin(
    name: str,
    paths: Sequence[Path],
    settings: SplitSettings,
    labels: LabelTable | None = None,
) -> tuple[Source, Origin | None]:
    """Call `open_dataset`, and return its result and the origin of the images.

    The origin is None if a file cannot be read. The state of the files is recorded before any file
    is read. A file that changes while a beton is written is therefore recognized as changed. Raises
    UserError as `open_dataset` does.
    """
    files = _state(paths)
    table = digest_of_table(labels) if labels is not None else None
    source = open_dataset(name, paths, settings, labels)
    if files is None:  # opening may have generated the files
        files = _state(paths)
    if files is None:
        return source, None
    return source, Origin(
        dataset=name,
        val=settings.val,
        test=settings.test,
        split_seed=settings.seed,
        protocol=source.protocol,
        files=files,
        folders=None if settings.folders.is_default else str(settings.folders),
        labels=table,
    )


def record(file: Path, manifest: Manifest, origin: Origin | None) -> None:
    """Write the origin of the beton `file`, if it is known. Raises OSError."""
    if origin is None:
        return
    path = record_path(file)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with locked(file.parent):
        temporary.write_text(
            json.dumps({"manifest": manifest.digest, **origin.model_dump()}, indent=1) + "\n"
        )
        temporary.replace(path)


def recorded(file: Path, manifest: Manifest) -> Origin | None:
    """Return the recorded origin of the beton with this manifest, or None if there is none."""
    try:
        content: dict[str, Any] = json.loads(record_path(file).read_text())
        return (
            Origin.model_validate(content) if content.pop("manifest") == manifest.digest else None
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        ValidationError,
    ):
        return None


def inherit(from_file: Path, file: Path) -> None:
    """Give the copy `file` the origin of `from_file`, if it is known. Raises UserError, OSError."""
    manifest = read_manifest(file)
    original = read_manifest(from_file)
    if manifest.copied_from == {"file": from_file.name, "sha256": original.sha256}:
        record(file, manifest, recorded(from_file, original))


def record_path(file: Path) -> Path:
    """Return the path of the record next to a beton, `<name>.origin.json`."""
    return file.with_name(f"{file.name}.origin.json")


def _state(paths: Sequence[Path]) -> str | None:
    """Return the digest of the files at the paths, or None if a path is missing or unreadable."""
    digest = hashlib.sha256()
    try:
        for number, path in enumerate(paths):
            for name, state in walk(path):
                line = f"{number} {json.dumps(name)} {state.num_bytes} {state.changed_ns}\n"
                digest.update(line.encode())
    except OSError:
        return None
    return digest.hexdigest()
