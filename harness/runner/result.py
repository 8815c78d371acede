"""One JSON record per stage: numbers, units, environment, timing. The only thing a report reads.

`result.json` is written last and atomically: a stage is done if and only if it exists.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.system.atomic_write import write_json
from writers.errors import UserError

SCHEMA = 1
FILE_NAME = "result.json"
MOST_SAMPLED = 200  # results of a kind: to read thousands would take longer than a plan may


class Result(BaseModel):
    """What a stage leaves behind. Accuracies are fractions; fields carry their units in their names."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="constants", defer_build=True
    )

    schema_version: int = SCHEMA
    kind: str  # write, rank, pretrain, adopt, evaluate, features, score, ...
    key: str  # the stage's hash
    name: str  # for people: transfer/pets/full/minus10/eps0.5/seed0
    axes: dict[str, Any]  # subset, eps, seed, arch, target, method: those that apply
    config: dict[str, Any]  # the stage's resolved settings
    needs: dict[str, str]  # role -> key of the stage that filled it
    inputs: dict[
        str, str
    ] = {}  # role/file -> sha256 of what the needed stages left: betons, weights, features
    outputs: dict[str, str] = {}  # file -> sha256 of what this one left for others
    recipe: str = ""  # under $HARNESS_RUNS: the resolved text of the recipe that asked for it
    metrics: dict[str, Any]
    timing: dict[str, Any] = {}
    environment: dict[str, Any]
    retries: dict[
        str, int
    ] = {}  # what made earlier attempts fail -> how often: lost, out_of_memory, preempted
    started_at: str  # ISO 8601, UTC
    gpu_memory_bytes: int | None = None  # the most that torch had reserved of its GPU
    gpu_busy: float | None = (
        None  # share of the stage's time in which a kernel ran; None: no NVML, or others ran there, too
    )
    import_s: float = 0.0  # loading the stage's code: of the first stage of its kind in a worker
    wall_s: float  # the stage's own work: without imports, leases and writing this


def save(result: Result, folder: Path) -> None:
    write_json(folder / FILE_NAME, result.model_dump(mode="json"))


def load(folder: Path) -> Result | None:
    """The stage's result, or None where the stage is not done. A damaged or foreign record is a UserError."""
    path = folder / FILE_NAME
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        record = json.loads(text)
        if isinstance(record, dict) and record.get("schema_version") != SCHEMA:
            raise UserError(
                f"{path} has schema {record.get('schema_version')}, this harness reads {SCHEMA}.",
                "Delete that stage's folder to run it again.",
            )
        found = Result.model_validate(record)
    except (json.JSONDecodeError, ValidationError) as error:
        raise UserError(
            f"{path} is not a result this harness wrote: {str(error).splitlines()[0]}",
            "Delete that stage's folder to run it again.",
        ) from error
    if found.key != folder.name:
        raise UserError(
            f"{path} is the result of another stage, {found.key}.",
            "Delete that stage's folder to run it again.",
        )
    return found


def sample(runs: Path, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and record of results of a kind, MOST_SAMPLED at most: to learn from what has run. One that cannot be read is
    passed over: whoever needs it says so."""
    for file in islice((runs / "stages" / kind).glob(f"*/{FILE_NAME}"), MOST_SAMPLED):
        with suppress(OSError, ValueError):
            if isinstance(record := json.loads(file.read_text()), dict):
                yield file.parent, record
