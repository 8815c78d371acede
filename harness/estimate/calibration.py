"""How long steps were measured to take, on which device: `$HARNESS_RUNS/calibration.json`. Imports no torch.

    {"schema_version": 1, "steps": [{"device": NAME, "torch": VERSION, "step": {what it does}, "step_s": 0.021}, ...]}

Rows of several machines, which share a folder of runs, stand side by side; each machine looks at its own.
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
ANEW = "harness plan RECIPE --calibrate measures anew."
JSON = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What the times of steps belong to."""

    device: str  # the GPU's name, or the CPU's with the threads of a stage
    torch: str  # version

    def __str__(self) -> str:
        return f"{self.device}, torch {self.torch}"


@dataclass(frozen=True)
class Calibration:
    """Seconds of steps on one machine."""

    machine: Machine
    step_s: Mapping[str, float]  # by `step_key`

    def seconds(self, workloads: Iterable[Workload]) -> float | None:
        """None where one of the steps was not measured."""
        total = 0.0
        for workload in workloads:
            step_s = self.step_s.get(workload.key)
            if step_s is None:
                return None
            total += workload.num_images / workload.batch_size * step_s
        return total


def read(runs: Path, machine: Machine) -> Calibration:
    """What was measured on that machine; nothing where there is no file. Raises UserError where it is damaged."""
    return Calibration(
        machine,
        {
            step_key(row["step"]): row["step_s"]
            for row in _rows(runs)
            if Machine(row["device"], row["torch"]) == machine
        },
    )


def add(runs: Path, machine: Machine, step: JSON, step_s: float) -> None:
    """Keep a measurement beside the others, in place of an earlier one of the same. What was damaged goes."""
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


def in_words(step: JSON) -> str:
    """For people: train resnet18 under attack, 256 images at 224 pixels."""
    settings = step.get("settings", step)
    about = step.get("model", step)
    name = about["arch"] if "arch" in about else about["model"]["name"]
    what = {
        "look": f"look with {name}",
        "attack": f"attack {name} for evaluation",
        "pretrain": f"train {name}" + (" under attack" if step.get("attacked") else ""),
        "transfer": f"train {name} by {step.get('method')}"
        + (f", {step.get('num_trials')} heads" if step.get("num_trials", 1) > 1 else ""),
    }[step["step"]]
    return f"{what}, {settings['batch_size']} images at {settings['resolution'] or 'its own number of'} pixels"


def _rows(runs: Path) -> list[JSON]:
    path = runs / FILE_NAME
    try:
        content = json.loads(path.read_text())
        if content["schema_version"] != SCHEMA:
            raise UserError(
                f"{path} has schema {content['schema_version']}, this harness reads {SCHEMA}.", ANEW
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
        raise UserError(f"{path} is damaged: {type(error).__name__} {error}", ANEW) from error


def _positive(seconds: Any) -> float:
    if not 0 < float(seconds) < math.inf:
        raise ValueError(f"a step took {seconds} s")
    return float(seconds)
