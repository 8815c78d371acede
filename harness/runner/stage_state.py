"""Determine a stage's state from its folder: done, running, failed or not started.

A stage is done if it has a result and the files that later stages read still exist.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from harness.matrix.stage_kind import StageKind
from harness.runner import result
from writers import lease

ERROR_FILE = "error.txt"

State = Literal["done", "running", "failed", "left", "skipped"]  # left: not done yet


def has_result(folder: Path) -> bool:
    """Return True if the stage has finished, even if its output files were deleted since."""
    return (folder / result.FILE_NAME).exists()


def with_result(runs: Path, kinds: Iterable[str]) -> set[str]:
    """Return keys of all stages of these kinds that have a result.

    Makes no Path and calls no stat per stage, which would take a second for 100,000 stages.
    """
    return {
        folder.name
        for folder in _folders(runs, kinds)
        if os.access(f"{folder.path}/{result.FILE_NAME}", os.F_OK)
    }


def with_folder(runs: Path, kinds: Iterable[str]) -> set[str]:
    """Return keys of all stages of these kinds that were ever started."""
    return {folder.name for folder in _folders(runs, kinds)}


def _folders(runs: Path, kinds: Iterable[str]) -> Iterator[os.DirEntry[str]]:
    for kind in kinds:
        with suppress(FileNotFoundError), os.scandir(runs / "stages" / kind) as folders:
            yield from folders


def has_outputs(kind: StageKind, folder: Path, data: Path) -> bool:
    """Return True if the files that other stages read still exist.

    People may delete `.beton` files and features to save disk space.

    Args:
        kind: declaration of the stage's kind.
        folder: folder of a stage that has a result.
        data: folder of `.beton` files, $HARNESS_DATA.
    """
    metrics: Any = {}
    try:
        if kind.recorded_outputs is not None:
            metrics = result.read_metrics(folder)
        return all(
            file.exists() if size is None else file.stat().st_size == size
            for file, size in kind.output_files(metrics, folder, data).items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def is_incomplete(kind: StageKind, folder: Path) -> bool:
    """Return True if the stage ran without results of some needed stages; the next run repeats it.

    Returns False for a result that cannot be read; `result.load` reports it.
    """
    if kind.is_incomplete is None:
        return False
    try:
        return kind.is_incomplete(result.read_metrics(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_done(kind: StageKind, folder: Path, data: Path) -> bool:
    """Return True if the stage has a result and every file that other stages read."""
    return has_result(folder) and has_outputs(kind, folder, data)


def state(kind: StageKind, folder: Path, data: Path) -> State:
    """Return the stage's current state, but never "skipped", which depends on a shortlist."""
    if lease.is_held(folder):
        return "running"
    if is_done(kind, folder, data) and not is_incomplete(kind, folder):
        return "done"
    return "failed" if (folder / ERROR_FILE).exists() else "left"


def failed_since(folder: Path, began_at: float | None) -> str | None:
    """Return the error line of a failure after `began_at`; None if there is none.

    Args:
        folder: folder of a stage.
        began_at: start of the run, by the file system's clock. A failure within the same clock
            tick counts as earlier. None means that all failures are ignored.
    """
    if began_at is None:
        return None
    try:
        is_recent = (folder / ERROR_FILE).stat().st_mtime > began_at
    except OSError:
        return None
    return error_line(folder) if is_recent else None


def error_line(folder: Path) -> str | None:
    """Return the most informative line of a failed stage's error; None if it has not failed."""
    lines = _error_lines(folder)
    if lines is None:
        return None
    return summary(lines) if lines else "failed with no error message"


def error_hint(folder: Path) -> str:
    """Return how to fix a failed stage: the lines after the first one of a UserError, or ""."""
    lines = _error_lines(folder) or [""]
    return "" if lines[0].startswith("Traceback") else "\n".join(lines[1:])


def _error_lines(folder: Path) -> list[str] | None:
    try:
        return (folder / ERROR_FILE).read_text().strip().splitlines()
    except OSError:
        return None


def summary(lines: list[str]) -> str:
    """Return the last line of a traceback, or the first line of a UserError."""
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]
