"""Read and write the record of a finished stage: numbers, units, environment, timing.

`result.json` is written last and atomically: a stage has finished if and only if it exists. Reports
read these records; in addition, they read saved predictions, and the errors of failed stages.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pydantic_core
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.system.atomic_write import write_json
from writers.errors import UserError

SCHEMA = 1
FILE_NAME = "result.json"
MAX_SAMPLED = 200  # results that are read per kind; thousands would make `harness plan` slow
NOT_FINITE = "a number is NaN or infinite"
RERUN = "Delete that stage's folder to run it again."
_CONSTANT = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)\b").search
# Numbers such as 1e999, which are parsed as infinity. Searching for a pattern that begins with a
# literal character is much faster than for a pattern that begins with a set.
_LARGE_EXPONENT, _LARGE_EXPONENT_2 = (
    re.compile(rb"%c\+?[0-9]{3,}[,\s\]}]" % letter).search for letter in b"eE"
)


class Result(BaseModel):
    """Result of a stage. Accuracies are fractions; field names carry units.

    Attributes:
        schema_version: version of these fields.
        kind: write, rank, pretrain, adopt (load an existing model), evaluate, features, score, ...
        key: the stage's hash.
        name: name for display, such as transfer/pets/full/minus10/eps0.5/seed0.
        axes: values of the recipe's axes, such as subset, eps, seed, target and method; an axis
            that the stage does not depend on is missing.
        config: the stage's resolved settings.
        needs: role -> key of the needed stage.
        inputs: role/file -> sha256 of the needed stages' outputs: `.beton` files, weights,
            features.
        outputs: file -> sha256 of files that this stage wrote for others.
        recipe: path, relative to $HARNESS_RUNS, of the resolved recipe that requested the stage.
        metrics: numbers of the stage; see `harness/stages/<kind>/`.
        timing: seconds and rates of the stage's parts.
        environment: versions, machine and device.
        retries: cause (lost, out_of_memory, restart, preempted) -> number of failed attempts
            before the stage succeeded.
        started_at: ISO 8601, UTC.
        gpu_memory_bytes: peak of the memory that torch reserved on the GPU; None without a GPU.
        gpu_busy: fraction of the stage's time in which a kernel ran on its GPU. None without a GPU,
            if NVML is missing, or if other stages shared the GPU.
        import_s: seconds to import the stage's code; about 0 unless it is a worker's first stage of
            its kind.
        wall_s: seconds of the stage's work, without imports, leases and writing this record.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="constants", defer_build=True
    )

    schema_version: int = SCHEMA
    kind: str
    key: str
    name: str
    axes: dict[str, Any]
    config: dict[str, Any]
    needs: dict[str, str]
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    recipe: str = ""
    metrics: dict[str, Any]
    timing: dict[str, Any] = {}
    environment: dict[str, Any]
    retries: dict[str, int] = {}
    started_at: str
    gpu_memory_bytes: int | None = None
    gpu_busy: float | None = None
    import_s: float = 0.0
    wall_s: float


def save(result: Result, folder: Path) -> None:
    """Write the result atomically.

    Raises:
        ValueError: a number is not finite.
        OSError: the folder cannot be written.
    """
    write_json(folder / FILE_NAME, result.model_dump(mode="json"))


def load(folder: Path) -> Result | None:
    """Read the stage's result; None if it has none.

    Raises:
        UserError: the record is damaged or unreadable, has another schema, or belongs to another
            stage.
    """
    path = f"{folder}/{FILE_NAME}"  # a Path takes longer than reading the file
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", RERUN) from error
    try:
        # Faster than json.loads; equal strings in different results share memory.
        record = pydantic_core.from_json(text, allow_inf_nan=False)
        if (_LARGE_EXPONENT(text) or _LARGE_EXPONENT_2(text)) and _has_infinity(record):
            raise ValueError(NOT_FINITE)
        if isinstance(record, dict) and record.get("schema_version") != SCHEMA:
            raise UserError(
                f"{path} has schema {record.get('schema_version')}, this harness reads {SCHEMA}.",
                RERUN,
            )
        loaded = Result.model_validate(record)
    except ValueError as error:  # from the JSON parser or from pydantic
        reason = _reason(error, text)
        raise UserError(f"{path} is not a result this harness wrote: {reason}.", RERUN) from error
    if loaded.key != folder.name:
        raise UserError(f"{path} is the result of another stage, {loaded.key}.", RERUN)
    return loaded


def field_errors(error: ValidationError, *outer: str) -> Iterator[tuple[str, str, bool]]:
    """Iterate over (place, message, is missing) of each wrong field.

    Args:
        error: error about a record.
        outer: names of the fields that contain the record.
    """
    for detail in error.errors(include_url=False, include_input=False):
        place = ".".join(map(str, (*outer, *detail["loc"])))
        message = f"{detail['msg'][:1].lower()}{detail['msg'][1:]}"
        yield place, message, detail["type"] == "missing"


def _reason(error: ValueError, text: bytes) -> str:
    """Describe in one line why a record is refused."""
    if isinstance(error, ValidationError):
        place, message, _ = next(field_errors(error))
        return f"{place}: {message}"
    if not text.strip():
        return "the file is empty"
    return NOT_FINITE if _CONSTANT(text) else str(error)


def _has_infinity(value: Any) -> bool:
    """Return True if a number in nested mappings and lists is infinite."""
    if isinstance(value, dict | list):
        return any(map(_has_infinity, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isinf(value)


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read only the metrics of a stage's result, without validation.

    Raises:
        OSError: the stage has no result, or it cannot be read.
        ValueError, KeyError, TypeError: the record is damaged; `load` describes the damage.
    """
    metrics: dict[str, Any] = json.loads((folder / FILE_NAME).read_text())["metrics"]
    return metrics


def sample(runs: Path, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Iterate over folder and record of at most MAX_SAMPLED results of a kind.

    The records serve as measurements of earlier stages and are not validated. Unreadable records
    are skipped; code that needs them raises.
    """
    for file in islice((runs / "stages" / kind).glob(f"*/{FILE_NAME}"), MAX_SAMPLED):
        with suppress(OSError, ValueError):
            if isinstance(record := json.loads(file.read_text()), dict):
                yield file.parent, record
