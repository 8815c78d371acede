"""Declaration of the features stage, which extracts a frozen model's features for a target."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.matrix.stage import Stage
from harness.matrix.stage_kind import StageKind
from harness.matrix.workload import Counts, Workload
from harness.stages import _workload


def feature_files(metrics: Mapping[str, Any], folder: Path, data: Path) -> dict[Path, int | None]:
    """Map the file with the features of each split, in the stage's folder, to its size in bytes."""
    return {folder / split["file"]: split["bytes"] for split in metrics["splits"].values()}


def workloads(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Workload]:
    """Yield a forward pass of every image of the extracted splits."""
    config = stage.config
    yield _workload.forward_pass(
        _workload.model_of(stage.needs["model"]),
        config["resolution"],
        config["batch_size"],
        config["precision"],
        sum(counts["data"].splits.get(split, 0) for split in config["splits"]),
    )


SPEC = StageKind(version=2, on_demand=True, recorded_outputs=feature_files, workloads=workloads)
