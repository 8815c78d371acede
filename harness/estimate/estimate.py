"""Estimate time and disk space of the unfinished stages from results on disk.

The estimate for a stage is the median time of similar finished stages, scaled by `StageKind.work`,
which is proportional to the time (such as images times epochs).
Similar stages have the same kind, model, resolution, data and method, and any seed, subset and eps.
The times are valid for the machines that measured them. If no similar stage has finished, the
estimate is computed from steps timed on this machine (`harness plan --calibrate`). Without timed
steps the time is unknown, but the time on a known GPU can be predicted
(`harness.estimate.prediction`).
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.estimate.calibration import Calibration
from harness.estimate.prediction import Predictor
from harness.estimate.workload import Workloads
from harness.matrix.stage import Stage
from harness.runner import result

CostKey = tuple[Any, ...]


@dataclass(frozen=True)
class Estimate:
    """Estimate for the unfinished stages.

    Attributes:
        hours: Sum of the hours of all stages with a known time, weighted by `expected_runs`.
        num_unknown: Number of stages with neither a similar finished stage nor a calibration.
        disk_bytes: Bytes of files that other stages read: .beton files, models and features.
        num_unknown_disk: Number of stages with files of unknown size.
        num_calibrated: Number of stages estimated from timed steps.
        calibrated_hours: Hours of these stages, included in `hours`; excludes loading of data.
        calibrated_on: Machine of the timed steps; None if none was used.
        num_predicted: Number of stages, counted in `num_unknown`, whose time is predicted.
        predicted_gpu_hours: Hours of these stages on one GPU, not measured. Not in `hours`.
        predicted_for: Name of that GPU; None if no time above 0 is predicted.
    """

    hours: float
    num_unknown: int
    disk_bytes: int
    num_unknown_disk: int
    num_calibrated: int = 0
    calibrated_hours: float = 0.0
    calibrated_on: str | None = None
    num_predicted: int = 0
    predicted_gpu_hours: float = 0.0
    predicted_for: str | None = None


def estimate(
    left: dict[str, Stage],
    runs: Path,
    calibration: Calibration | None = None,
    predictor: Predictor | None = None,
) -> Estimate:
    """Estimate the unfinished stages.

    Reads at most `result.MAX_SAMPLED` results of each kind.

    Args:
        left: Unfinished stages by key.
        runs: Folder of stages.
        calibration: Times of steps on this machine; None if there are none.
        predictor: Predicts the time of stages without measured times; None predicts nothing.
    """
    rates, sizes = _measured(left, runs)
    workloads, known_s, num_unknown = Workloads(runs), 0.0, 0
    calibrated_s: list[float] = []
    predicted_s: list[float] = []
    for stage in left.values():
        num_runs = expected_runs(stage)
        if (similar := cost_key(stage)) in rates:
            known_s += rates[similar] * stage.spec.work(stage.config) * num_runs
        elif (
            calibration
            and (parts := workloads.of(stage))
            and (seconds := calibration.seconds(parts)) is not None
        ):
            calibrated_s.append(seconds * num_runs)
        else:
            num_unknown += 1
            if predictor and (seconds := predictor.seconds(stage)) is not None:
                predicted_s.append(seconds * num_runs)
    leave_files = [stage for stage in left.values() if stage.spec.leaves_files]
    sized = [stage for stage in leave_files if cost_key(stage) in sizes]
    return Estimate(
        (known_s + sum(calibrated_s)) / 3600,
        num_unknown,
        sum(sizes[cost_key(stage)] for stage in sized),
        len(leave_files) - len(sized),
        len(calibrated_s),
        sum(calibrated_s) / 3600,
        str(calibration.machine) if calibration and calibrated_s else None,
        len(predicted_s),
        sum(predicted_s) / 3600,
        predictor.gpu.name if predictor and any(predicted_s) else None,
    )


def measured_rates(left: dict[str, Stage], runs: Path) -> dict[CostKey, float]:
    """Return seconds per unit of `StageKind.work` of finished stages, by cost key."""
    return _measured(left, runs)[0]


def unmeasured(
    left: dict[str, Stage], runs: Path, calibration: Calibration
) -> list[dict[str, Any]]:
    """Return the steps to time, for unfinished stages to which no finished stage is similar.

    Args:
        left: Unfinished stages by key.
        runs: Folder of stages.
        calibration: Steps that were timed already.
    """
    rates, _ = _measured(left, runs)
    workloads = Workloads(runs)
    steps = {
        part.key: part.step
        for stage in left.values()
        if cost_key(stage) not in rates
        for part in workloads.of(stage) or ()
    }
    return [step for key, step in steps.items() if key not in calibration.step_s]


def _measured(
    left: dict[str, Stage], runs: Path
) -> tuple[dict[CostKey, float], dict[CostKey, int]]:
    """Median seconds per unit of work, and median bytes, of finished stages by cost key."""
    rates: dict[CostKey, list[float]] = {}
    sizes: dict[CostKey, list[int]] = {}
    for kind in {stage.kind for stage in left.values()}:
        for folder, record in result.sample(runs, kind):
            try:
                done = Stage(kind, record["config"], axes=record["axes"])
                work = done.spec.work(done.config)
                rates.setdefault(cost_key(done), []).append(float(record["wall_s"]) / work)
                size = _num_bytes(done, folder, record)
                sizes.setdefault(cost_key(done), []).append(size)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # another schema: skip it here; code that needs the result raises
    return (
        {cost_key: statistics.median(values) for cost_key, values in rates.items()},
        {cost_key: round(statistics.median(values)) for cost_key, values in sizes.items()},
    )


def expected_runs(stage: Stage) -> float:
    """Return the expected number of runs, below 1 if other results decide if the stage runs."""
    return 1.0 if stage.gated_by is None else stage.gated_by.chosen_fraction


def cost_key(stage: Stage) -> CostKey:
    """Return a key that stages of similar cost share: kind, model, data, method, resolution."""
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


def _num_bytes(stage: Stage, folder: Path, record: dict[str, Any]) -> int:
    """Bytes of the files that other stages read; deleted files count with their recorded size."""
    files = stage.spec.output_files(record["metrics"], folder, Path())
    sizes = [size for size in files.values() if size is not None]
    return sum(sizes or (file.stat().st_size for file in files if file.exists()))
