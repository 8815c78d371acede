"""When a stage is done: it has a result, and the files that later stages read are still there."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from harness.matrix.stage_kind import StageKind
from harness.runner import lease, result

ERROR_FILE = "error.txt"


def has_result(folder: Path) -> bool:
    return (folder / result.FILE_NAME).exists()


def with_result(runs: Path, kinds: Iterable[str]) -> set[str]:
    """The keys of all stages of these kinds that have a result: of ten thousand in a twentieth of a second."""
    return {
        folder.name
        for folder in _folders(runs, kinds)
        if os.path.exists(f"{folder.path}/{result.FILE_NAME}")  # noqa: PTH110
    }


def with_folder(runs: Path, kinds: Iterable[str]) -> set[str]:
    """The keys of all stages of these kinds that anybody has begun; of the others nothing is on disk."""
    return {folder.name for folder in _folders(runs, kinds)}


def _folders(runs: Path, kinds: Iterable[str]) -> Iterator[os.DirEntry[str]]:
    for kind in kinds:
        with suppress(FileNotFoundError), os.scandir(runs / "stages" / kind) as folders:
            yield from folders


def has_outputs(spec: StageKind, folder: Path, data: Path) -> bool:
    """Return whether the files that other stages read still exist; betons and features may be
    deleted to save disk.

    Args:
        spec: declaration of the stage's kind.
        folder: folder of a stage that has a result.
        data: the folder of betons.
    """
    metrics: Any = {}
    try:
        if spec.recorded_outputs is not None:
            metrics = json.loads((folder / result.FILE_NAME).read_text())["metrics"]
        return all(
            file.exists() if size is None else file.stat().st_size == size
            for file, size in spec.output_files(metrics, folder, data).items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def is_done(spec: StageKind, folder: Path, data: Path) -> bool:
    """Return whether the stage has a result, and every file that other stages read."""
    return has_result(folder) and has_outputs(spec, folder, data)


State = Literal["done", "running", "failed", "left", "skipped"]


def state(spec: StageKind, folder: Path, data: Path) -> State:
    """How a stage stands now, whoever runs it."""
    if lease.is_held(folder):
        return "running"
    if is_done(spec, folder, data):
        return "done"
    return "failed" if (folder / ERROR_FILE).exists() else "left"


def failed_since(folder: Path, began_at: float | None) -> str | None:
    """What another run's attempt at the stage came to, where that failed after `began_at`, in the file system's time."""
    try:
        recent = (
            began_at is not None and (folder / ERROR_FILE).stat().st_mtime > began_at
        )  # of one tick: it is from before
    except OSError:
        return None
    return error_line(folder) if recent else None


def error_line(folder: Path) -> str | None:
    """The line of a failed stage's error that says most; None where it has not failed."""
    try:
        lines = (folder / ERROR_FILE).read_text().strip().splitlines()
    except OSError:
        return None
    return summary(lines) if lines else "failed without a word"


def summary(lines: list[str]) -> str:
    """A traceback's last line, or the first of words meant for a person."""
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]
