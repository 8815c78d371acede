"""Declaration of the write stage, which writes a dataset or a subset as `.beton` files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.matrix.stage_kind import StageKind


def betons(metrics: Mapping[str, Any], folder: Path, data: Path) -> dict[Path, int | None]:
    """Map each beton to its size in bytes, and its manifest to None (any size)."""
    files: dict[Path, int | None] = {}
    for split in metrics["splits"].values():
        files[data / split["path"]] = split["bytes"]
        files[data / f"{split['path']}.json"] = None
    return files


SPEC = StageKind(
    version=6,
    needs_gpu=False,
    on_demand=True,
    in_status="preparation",
    input_settings=("raw_files",),
    recorded_outputs=betons,
)
