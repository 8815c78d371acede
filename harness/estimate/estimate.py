"""How long what is left of a matrix takes, and how much disk, from what is on disk already; unknown without that.

A stage is compared with finished ones of its kind, model, resolution, data and method, whatever their seed, subset and eps,
and scaled by `harness.matrix.expand.work`. Times are those of the machines that measured them. What has no finished stage like it is
reckoned from steps that were timed on this machine (`harness plan --calibrate`), where they were.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.estimate.calibration import Calibration
from harness.estimate.workload import Workloads
from harness.matrix.expand import work
from harness.matrix.stage import Stage
from harness.runner import result

Likeness = tuple[Any, ...]


@dataclass(frozen=True)
class Estimate:
    """Of the stages that are left. What is neither like a finished stage nor calibrated is counted as unknown, and nowhere
    else."""

    hours: float  # one after another
    num_unknown: int
    disk_bytes: int  # betons and models
    num_unknown_disk: int
    num_calibrated: int = 0  # stages whose hours are reckoned from timed steps
    calibrated_hours: float = 0.0  # of `hours`: theirs, without loading of data
    calibrated_on: str | None = None  # the device; None: none was of use


def estimate(
    left: dict[str, Stage], runs: Path, calibration: Calibration | None = None
) -> Estimate:
    """Reads a sample of the results of each kind that is left."""
    rates, sizes = _measured(left, runs)
    workloads, known_s, calibrated_s, num_unknown = Workloads(runs), 0.0, [], 0
    for stage in left.values():
        if (likeness := _likeness(stage)) in rates:
            known_s += rates[likeness] * work(stage) * _chance(stage)
        elif (
            calibration
            and (parts := workloads.of(stage))
            and (seconds := calibration.seconds(parts)) is not None
        ):
            calibrated_s.append(seconds * _chance(stage))
        else:
            num_unknown += 1
    leave_files = [
        stage for stage in left.values() if stage.kind in ("write", "pretrain", "adopt", "features")
    ]
    sized = [stage for stage in leave_files if _likeness(stage) in sizes]
    return Estimate(
        (known_s + sum(calibrated_s)) / 3600,
        num_unknown,
        sum(sizes[_likeness(stage)] for stage in sized),
        len(leave_files) - len(sized),
        len(calibrated_s),
        sum(calibrated_s) / 3600,
        str(calibration.machine) if calibration and calibrated_s else None,
    )


def unmeasured(
    left: dict[str, Stage], runs: Path, calibration: Calibration
) -> list[dict[str, Any]]:
    """The steps to time, once each, so that all that is left and does its work in steps can be estimated."""
    rates, _ = _measured(left, runs)
    workloads = Workloads(runs)
    steps = {
        part.key: part.step
        for stage in left.values()
        if _likeness(stage) not in rates
        for part in workloads.of(stage) or ()
    }
    return [step for key, step in steps.items() if key not in calibration.step_s]


def _measured(
    left: dict[str, Stage], runs: Path
) -> tuple[dict[Likeness, float], dict[Likeness, int]]:
    """Of finished stages by likeness, in the middle: seconds for a unit of work, and bytes."""
    rates: dict[Likeness, list[float]] = {}
    sizes: dict[Likeness, list[int]] = {}
    for kind in {stage.kind for stage in left.values()}:
        for folder, record in result.sample(runs, kind):
            try:
                done = Stage(kind, record["config"], axes=record["axes"])
                rates.setdefault(_likeness(done), []).append(float(record["wall_s"]) / work(done))
                sizes.setdefault(_likeness(done), []).append(_num_bytes(folder, record))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # of another schema: whoever needs it says so
    return (
        {likeness: statistics.median(values) for likeness, values in rates.items()},
        {likeness: round(statistics.median(values)) for likeness, values in sizes.items()},
    )


def _chance(stage: Stage) -> float:
    """That the stage runs at all: while a shortlist is not drawn up, each of its models may come to stand on it."""
    if stage.only_if is None:
        return 1.0
    models = {model for model, _ in stage.only_if.config["scores"].values()}
    return min(1.0, stage.only_if.config["best"] / len(models))


def _likeness(stage: Stage) -> Likeness:
    settings = stage.config.get("settings", {})
    data = stage.config.get("data", {})
    return (
        stage.kind,
        stage.axes.get("arch"),
        stage.axes.get("model"),
        stage.axes.get("target"),
        stage.axes.get("method"),
        settings.get("resolution") or stage.config.get("resolution"),
        data.get("dataset"),
        data.get("path"),
    )


def _num_bytes(folder: Path, record: dict[str, Any]) -> int:
    if record["kind"] == "write":
        return sum(int(split["bytes"]) for split in record["metrics"]["splits"].values())
    return sum(file.stat().st_size for file in (*folder.glob("*.pt"), *folder.glob("*.npz")))
