"""When a stage is done: it has a result, and the files that later stages read are still there."""

import json
from pathlib import Path

from harness import result

ERROR_FILE = "error.txt"


def has_result(folder: Path) -> bool:
    return (folder / result.FILE_NAME).exists()


def has_outputs(kind: str, folder: Path, data: Path) -> bool:
    """Whether a stage with a result still has what others read: betons, in `data`, may be deleted to save disk."""
    if kind == "pretrain":
        return (folder / "model.pt").exists()
    if kind != "write":
        return True
    try:
        splits = json.loads((folder / result.FILE_NAME).read_text())["metrics"]["splits"]
        return all((data / split["path"]).stat().st_size == split["bytes"]
                   and (data / f"{split['path']}.json").exists() for split in splits.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def is_done(kind: str, folder: Path, data: Path) -> bool:
    return has_result(folder) and has_outputs(kind, folder, data)
