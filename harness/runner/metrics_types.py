"""Check the metrics and times of a result against the types that its kind of stage declares.

If a result was edited, the error names the file and the field. Without this check, a report would
fail with an unclear error. Missing fields can be allowed, because an older version of the kind may
not have written them.
"""

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness.matrix.stage_kind import STAGES_PACKAGE
from harness.runner.result import FILE_NAME, RERUN, Result, field_errors, load
from writers.errors import UserError

FRACTIONS = frozenset(("top1", "top5", "mean_per_class", "map", "map11", "map50_11", "map50"))
MAX_INTEGER = 2**63 - 1  # largest signed integer of 64 bits
MAX_PROBLEMS = 20  # errors that are checked per result


class Timing(TypedDict, total=False):
    """Times that reports read; see `harness.profiling.timer.summary`. None means not measured."""

    spans_s: dict[str, float]
    per_step_ms: dict[str, float]
    num_steps: int | None
    train_s: float | None
    eval_s: float | None
    checkpoint_s: float | None
    startup_s: float | None
    img_per_s: float | None
    replay_img_per_s: float | None
    gpu_fed: float | None
    data_wait_fraction: float | None
    peak_share: float | None
    verdict: str
    gpu: dict[str, Any] | None


_TIMING: TypeAdapter[Timing] = TypeAdapter(Timing)


def problem(result: Result, package: str = STAGES_PACKAGE, *, may_lack: bool = True) -> str | None:
    """Describe the first field whose value has a wrong type or range; None if all fields fit.

    Args:
        result: result to check.
        package: package of the stage's kind, as in `stage_kind.find`.
        may_lack: accept missing fields.
    """
    for place, message, is_missing in _type_errors(result, package):
        if not (is_missing and may_lack):
            return f"{place}: {message}"
    return _out_of_range(result.metrics, "metrics")


def missing_fields(result: Result, package: str = STAGES_PACKAGE) -> list[str]:
    """Return the missing fields of a result, such as metrics.test.num_images."""
    return [place for place, _, is_missing in _type_errors(result, package) if is_missing]


def _type_errors(result: Result, package: str) -> Iterator[tuple[str, str, bool]]:
    """Iterate over (place, message, is missing) of each wrong field."""
    declared, metrics = _type_of_metrics(result.kind, package), result.metrics
    if type(grid := metrics.get("grid")) is list:  # long, and its mappings may hold any values
        if not all(type(entry) is dict for entry in grid):
            yield "metrics.grid", "input should be a list of mappings", False
        metrics = {**metrics, "grid": []}
    for split in ("test", "val"):
        scores = metrics.get(split)
        if type(scores) is dict and metrics.get("metric") in FRACTIONS - scores.keys():
            yield f"metrics.{split}.{metrics['metric']}", "field required", False
    for name, adapter, values in (
        ("metrics", declared, metrics),
        ("timing", _TIMING, result.timing),
    ):
        if adapter is None:
            continue
        try:
            adapter.validate_python(values, strict=True)
        except ValidationError as error:
            yield from islice(field_errors(error, name), MAX_PROBLEMS)


def _out_of_range(values: Mapping[str, Any], place: str) -> str | None:
    """Find an impossible number in nested mappings.

    Counts must not be negative and must fit into 64 bits. Accuracies must be in [0, 1], and
    measured on at least one image.
    """
    for name, value in values.items():
        if type(value) is dict:
            if (found := _out_of_range(value, f"{place}.{name}")) is not None:
                return found
        elif type(value) is int or type(value) is float:
            if value < 0 and (name.startswith("num_") or name in FRACTIONS):
                return f"{place}.{name}: input should be at least 0"
            if value > 1 and name in FRACTIONS:
                return f"{place}.{name}: input should be at most 1"
            if type(value) is int and not -MAX_INTEGER <= value <= MAX_INTEGER:
                return f"{place}.{name}: input should be at most {MAX_INTEGER}"
            if value == 0 and name == "num_images" and not FRACTIONS.isdisjoint(values):
                return f"{place}.{name}: input should be at least 1"
    return None


def load_checked(folder: Path, package: str = STAGES_PACKAGE) -> Result | None:
    """Read a stage's result and check its values; None if it has none.

    Args:
        folder: folder of the stage.
        package: package of the stage's kind.

    Raises:
        UserError: `load` raises it, or a value has a wrong type or is out of range.
    """
    loaded = load(folder)
    if loaded is not None and (wrong := problem(loaded, package)) is not None:
        raise edited(folder, wrong)
    return loaded


def edited(folder: Path, wrong: str) -> UserError:
    """Make the error for a result that this harness did not write.

    Args:
        folder: folder of the stage.
        wrong: description of the wrong field, from `problem`.
    """
    return UserError(f"{folder / FILE_NAME} is not a result this harness wrote: {wrong}.", RERUN)


@cache
def _type_of_metrics(kind: str, package: str) -> TypeAdapter[Any] | None:
    """Type that `record.py` of a kind declares, such as PretrainMetrics; None if there is none."""
    for searched in dict.fromkeys((package, STAGES_PACKAGE)):
        try:
            importlib.import_module(f"{searched}.{kind}.spec")
        except ModuleNotFoundError:
            continue
        try:
            record = importlib.import_module(f"{searched}.{kind}.record")
        except ModuleNotFoundError:
            return None
        declared = getattr(record, f"{kind.title()}Metrics", None)
        return None if declared is None else TypeAdapter(declared)
    return None
