"""How long what is left of a matrix takes, and how much disk, from results that are on disk already; unknown without them.

A stage is compared with finished ones of its kind, model, resolution, data and method, whatever their seed, subset and eps,
and scaled by `harness.matrix.work`. Times are those of the machines that measured them.
"""

import json
import statistics
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from harness import result
from harness.matrix import work
from harness.stage import Stage

MOST_READ = 200         # results of a kind: to read thousands would take longer than a plan may
Likeness = tuple[Any, ...]


@dataclass(frozen=True)
class Estimate:
    """Of the stages that are left. What has no finished stage like it is counted as unknown, and nowhere else."""

    hours: float                # one after another
    num_unknown: int
    disk_bytes: int             # betons and models
    num_unknown_disk: int


def estimate(left: dict[str, Stage], runs: Path) -> Estimate:
    """Reads at most MOST_READ results of each kind that is left."""
    rates: dict[Likeness, list[float]] = {}         # seconds per unit of work
    sizes: dict[Likeness, list[int]] = {}
    for kind in {stage.kind for stage in left.values()}:
        for file in islice((runs / "stages" / kind).glob(f"*/{result.FILE_NAME}"), MOST_READ):
            try:
                record = json.loads(file.read_text())
                done = Stage(kind, record["config"], axes=record["axes"])
                rates.setdefault(_likeness(done), []).append(float(record["wall_s"]) / work(done))
                sizes.setdefault(_likeness(done), []).append(_num_bytes(file.parent, record))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue        # damaged, or of another schema: whoever needs it says so
    known = [stage for stage in left.values() if _likeness(stage) in rates]
    leave_files = [stage for stage in left.values() if stage.kind in ("write", "pretrain", "adopt", "features")]
    sized = [stage for stage in leave_files if _likeness(stage) in sizes]
    return Estimate(sum(statistics.median(rates[_likeness(stage)]) * work(stage) * _chance(stage) for stage in known) / 3600,
                    len(left) - len(known), sum(round(statistics.median(sizes[_likeness(stage)])) for stage in sized),
                    len(leave_files) - len(sized))


def _chance(stage: Stage) -> float:
    """That the stage runs at all: while a shortlist is not drawn up, each of its models may come to stand on it."""
    if stage.only_if is None:
        return 1.0
    models = {model for model, _ in stage.only_if.config["scores"].values()}
    return min(1.0, stage.only_if.config["best"] / len(models))


def _likeness(stage: Stage) -> Likeness:
    settings = stage.config.get("settings", {})
    data = stage.config.get("data", {})
    return (stage.kind, stage.axes.get("arch"), stage.axes.get("model"), stage.axes.get("target"), stage.axes.get("method"),
            settings.get("resolution") or stage.config.get("resolution"), data.get("dataset"), data.get("path"))


def _num_bytes(folder: Path, record: dict[str, Any]) -> int:
    if record["kind"] == "write":
        return sum(int(split["bytes"]) for split in record["metrics"]["splits"].values())
    return sum(file.stat().st_size for file in (*folder.glob("*.pt"), *folder.glob("*.npz")))
