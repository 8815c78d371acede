"""Declaration of the view stage, which selects a subset in the `.beton` files of all images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.matrix.stage_kind import StageKind


def position_files(metrics: Mapping[str, Any], folder: Path, data: Path) -> dict[Path, int | None]:
    """Map the files with the selected images' positions, one per split, to None (any size)."""
    return {folder / name: None for name in metrics["view"].values()}


SPEC = StageKind(version=1, needs_gpu=False, on_demand=True, recorded_outputs=position_files)
