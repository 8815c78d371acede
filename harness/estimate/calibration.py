"""Measured times of steps on each machine: `$HARNESS_RUNS/calibration.json`. Imports no torch.

    {"schema_version": 1, "steps": [
        {"device": NAME, "torch": VERSION, "step": {...}, "step_s": 0.021}, ...]}

The file has rows of all machines that share the folder of runs. A machine reads only the rows with
its own device and version of torch.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.matrix.workload import Workload, step_key
from harness.system.atomic_write import write_json
from writers.errors import UserError

FILE_NAME = "calibration.json"
SCHEMA = 1
HINT = "Measure again: harness plan RECIPE --calibrate"
JSON = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """Machine on which steps were timed.

    Attributes:
        device: Name of the GPU, or of the CPU with the number of threads of a stage.
        torch: Version of torch.
    """

    device: str
    torch: str

    def __str__(self) -> str:
        """Format for messages: device, torch version."""
        return f"{self.device}, torch {self.torch}"


@dataclass(frozen=True)
class Calibration:
    """Times of steps on one machine.

    Attributes:
        machine: Machine that measured the times.
        step_s: `step_key` of a step -> seconds.
    """

    machine: Machine
    step_s: Mapping[str, float]

    def seconds(self, workloads: Iterable[Workload]) -> float | None:
        """Estimate the time of all workloads; None if one of their steps was not measured."""
        total = 0.0
        for workload in workloads:
            step_s = self.step_s.get(workload.key)
            if step_s is None:
                return None
            total += workload.num_images / workload.batch_size * step_s
        return total


def read(runs: Path, machine: Machine) -> Calibration:
    """Read the times of a machine; empty if the file has none or does not exist.

    Raises:
        UserError: The file is damaged or has another schema version.
    """
    return Calibration(
        machine,
        {
            step_key(row["step"]): row["step_s"]
            for row in _rows(runs)
            if Machine(row["device"], row["torch"]) == machine
        },
    )


def add(runs: Path, machine: Machine, step: JSON, step_s: float) -> None:
    """Save a measurement. Replaces an earlier measurement of the step, and a damaged file."""
    try:
        rows = _rows(runs)
    except UserError:
        rows = []
    row = {"device": machine.device, "torch": machine.torch, "step": step, "step_s": step_s}
    others = [
        other
        for other in rows
        if any(other[name] != row[name] for name in ("device", "torch", "step"))
    ]
    write_json(runs / FILE_NAME, {"schema_version": SCHEMA, "steps": [*others, row]})


def describe(step: JSON) -> str:
    """Describe a step: train resnet18 under attack, 256 images at 224 pixels."""
    settings = step.get("settings", step)
    about = step.get("model", step)
    name = about["arch"] if "arch" in about else about["model"]["name"]
    action = {
        "forward": f"evaluate {name}",
        "attack": f"attack {name} for evaluation",
        "pretrain": f"train {name}" + (" under attack" if step.get("attacked") else ""),
        "transfer": f"train {name} by {step.get('method')}"
        + (f", {step.get('num_trials')} heads" if step.get("num_trials", 1) > 1 else ""),
        "detection_training": f"train {name} by {step.get('method')}",
        "detection": f"detect objects with {name}",
    }[step["step"]]
    side = settings.get("short_side") or settings.get("resolution")
    return f"{action}, {settings['batch_size']} images at " + (
        f"{side} pixels" if side else "its own resolution"
    )


def _rows(runs: Path) -> list[JSON]:
    path = runs / FILE_NAME
    try:
        content = json.loads(path.read_text())
        if content["schema_version"] != SCHEMA:
            raise UserError(
                f"{path} has schema {content['schema_version']}; this version reads {SCHEMA}.", HINT
            )
        return [
            {
                "device": str(row["device"]),
                "torch": str(row["torch"]),
                "step": dict(row["step"]),
                "step_s": _positive(row["step_s"]),
            }
            for row in content["steps"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__} {error}", HINT) from error


def _positive(seconds: Any) -> float:
    if not 0 < float(seconds) < math.inf:
        raise ValueError(f"a step took {seconds} s")
    return float(seconds)
