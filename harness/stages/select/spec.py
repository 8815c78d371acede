"""Declaration of the select stage, which scores source classes or images for a subset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.matrix.stage_kind import StageKind

SCORES_FILE = "scores.npz"  # file with the scores of images, in the stage's folder


def score_files(metrics: Mapping[str, Any], folder: Path, data: Path) -> dict[Path, int | None]:
    """Map the file with the scores of images to None (any size).

    Empty if classes are scored, because their scores are in the metrics.
    """
    return {folder / SCORES_FILE: None} if metrics["classes"] is None else {}


SPEC = StageKind(version=1, on_demand=True, in_status="preparation", recorded_outputs=score_files)
