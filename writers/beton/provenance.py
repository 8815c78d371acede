"""What a beton was written from: the raw files as they stood then, and how they were split.

A manifest holds nothing that depends on the clock or the machine, so it cannot tell whether the raw files are still the same.
This does: a record of its own beside it, `train.beton.origin.json`. Raw files count as the same while their names, sizes and
times of change are, as make, rsync and git have it. Where two origins are equal, an image of one name is one file, and need not
be decoded a second time (`writers/beton/reuse.py`). A beton without a record is as good as any; only nothing is known of its origin.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from writers.beton.store import Manifest, read_manifest
from writers.dataset import open_dataset
from writers.lock import locked
from writers.source import Source, SplitSettings


class Origin(BaseModel):
    """Equal origins: images of one name, in one split, are the same bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dataset: str
    val: float
    test: float
    split_seed: int
    protocol: str | None
    files: str  # sha256 of the name, size and time of change of all files at the places that the images come from


def open_with_origin(
    name: str, paths: Sequence[Path], settings: SplitSettings
) -> tuple[Source, Origin | None]:
    """`open_dataset`, and where its images come from; None: there are files or folders that cannot be looked at.

    Raises UserError as `open_dataset` does. The files are looked at before anything is read: those that change while a beton is
    written from them show as changed ever after.
    """
    files = _state(paths)
    source = open_dataset(name, paths, settings)
    if files is None:  # made on first use
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
    )


def record(file: Path, manifest: Manifest, origin: Origin | None) -> None:
    """Note where the beton `file` comes from, as far as that is known. Raises OSError."""
    if origin is None:
        return
    path = record_path(file)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    with locked(
        file.parent
    ):  # else a writer of the same beton, who is just beginning, could take it for a dead one's
        temporary.write_text(
            json.dumps({"manifest": manifest.digest, **origin.model_dump()}, indent=1) + "\n"
        )
        temporary.replace(path)


def recorded(file: Path, manifest: Manifest) -> Origin | None:
    """Where the beton with this very manifest comes from; None: that is not known."""
    try:
        found: dict[str, Any] = json.loads(record_path(file).read_text())
        return Origin.model_validate(found) if found.pop("manifest") == manifest.digest else None
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
    """A copy has the origin of what it was copied from, where that is known. Raises UserError, OSError."""
    manifest = read_manifest(file)
    original = read_manifest(from_file)
    if manifest.copied_from == {"file": from_file.name, "sha256": original.sha256}:
        record(file, manifest, recorded(from_file, original))


def record_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.origin.json")


def _state(paths: Sequence[Path]) -> str | None:
    """None: one of the places is not there yet, or is not to be looked at."""
    digest = hashlib.sha256()
    try:
        for number, path in enumerate(paths):
            for line in _tree(path, "", ()) if path.is_dir() else [_line(path.name, path.stat())]:
                digest.update(f"{number} {line}\n".encode())
    except OSError:
        return None
    return digest.hexdigest()


def _tree(folder: Path | str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """A line for each file below `folder`, in an order that depends on names alone. Hidden folders hold no images.

    `above`: the folders around it, so that a link to one of them does not lead round in a circle.
    """
    stat = os.stat(folder)  # noqa: PTH116
    if (here := (stat.st_dev, stat.st_ino)) in above:
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if not entry.is_dir():
            yield _line(
                prefix + entry.name, entry.stat(follow_symlinks=entry.is_file())
            )  # a broken link is itself
        elif not entry.name.startswith("."):
            yield from _tree(entry.path, f"{prefix}{entry.name}/", (*above, here))


def _line(name: str, stat: os.stat_result) -> str:
    return f"{json.dumps(name)} {stat.st_size} {stat.st_mtime_ns}"
