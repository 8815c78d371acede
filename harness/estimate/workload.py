"""Workloads of stages: kinds of steps, and the number of images in each. Imports no torch.

`StageKind.workloads` lists the workloads of a stage; `harness/estimate/calibrate.py` times the
steps. The head takes a negligible part of a step, so steps do not depend on the number of classes.
"""

import json
from pathlib import Path
from typing import cast

from harness.estimate.image_counts import ImageCounts
from harness.matrix.stage import Stage
from harness.matrix.workload import Counts, Workload


class Workloads:
    """Compute the workloads of stages, once for all that differ only in seed or the model's eps."""

    def __init__(self, runs: Path) -> None:
        self._images = ImageCounts(runs)
        self._known: dict[str, tuple[Workload, ...] | None] = {}

    def of(self, stage: Stage) -> tuple[Workload, ...] | None:
        """List a stage's workloads.

        Returns:
            None if the work does not consist of network steps, or the number of images is unknown.
        """
        equal_work = json.dumps(
            [
                stage.kind,
                {**stage.config, "seed": 0},
                *(
                    {**need.config, "seed": 0, "eps": 0} if role == "model" else need.key
                    for role, need in stage.needs.items()
                ),
            ]
        )
        if equal_work not in self._known:
            self._known[equal_work] = self._workloads(stage)
        return self._known[equal_work]

    def _workloads(self, stage: Stage) -> tuple[Workload, ...] | None:
        counts = {
            role: self._images.of(need)
            for role, need in stage.needs.items()
            if role in ("data", "all_data")
        }
        if stage.spec.workloads is None or "data" not in counts or None in counts.values():
            return None
        workloads = stage.spec.workloads(stage, cast(dict[str, Counts], counts))
        return tuple(workload for workload in workloads if workload.num_images)
