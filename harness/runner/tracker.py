"""Interface of trackers, which send the numbers of a run to other programs.

A tracker is a module `harness/runner/trackers/NAME.py` with `REQUIRES`, the name of the package
that it imports, and `open(folder: Path, recipe: str) -> Tracker`. `Tracking` follows the events of
a run: it sends curves while a model trains, and other numbers when a stage is done. If a tracker
fails, the error is reported once and the tracker is not called any more; results on disk are not
affected.
"""

import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.matrix.stage import Stage
from harness.runner import result
from harness.runner.context import EPOCHS_FILE
from harness.runner.executor import Event
from harness.system.atomic_write import write_json
from writers import names
from writers.errors import UserError
from writers.text_names import first_line

READ_EVERY_S = 2.0
PACKAGE = "harness.runner.trackers"


@dataclass(frozen=True)
class TrackedRun:
    """A stage, in the form that trackers receive.

    Attributes:
        key: the stage's key; recipes that share the stage have the same key.
        name: name of the stage, such as transfer/pets/full/minus10/eps0.5/seed0.
        kind: kind of stage.
        config: dotted name -> value of each setting.
    """

    key: str
    name: str
    kind: str
    config: dict[str, str | int | float | bool]


class Tracker(Protocol):
    """Receives runs, one per stage. Several runs may be open at the same time."""

    def begin(self, run: TrackedRun) -> None:
        """Open a run, or open it again after an interruption."""

    def log(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        """Add values at a step: an epoch, counted from 1, or 0 for results of the whole stage."""

    def end(self, run: TrackedRun, succeeded: bool) -> None:
        """Close a run."""

    def close(self) -> None:
        """Release all resources. `begin` may open runs again that are still open."""


def check_tracker(name: str) -> None:
    """Check that a tracker can be opened, without importing its package.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """
    package = names.find(PACKAGE, name, "tracker").REQUIRES
    if importlib.util.find_spec(package) is None:
        raise _missing(name, package)


def open_tracker(name: str, folder: Path, recipe: str) -> Tracker:
    """Open a tracker.

    Args:
        name: a module of `harness.runner.trackers`.
        folder: folder for files of the tracker.
        recipe: the recipe's name.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """
    module = names.find(PACKAGE, name, "tracker")
    try:
        tracker: Tracker = module.open(folder, recipe)
    except ImportError as error:
        raise _missing(name, error.name or module.REQUIRES) from error
    return tracker


def _missing(name: str, package: str) -> UserError:
    return UserError(
        f"--tracker {name} needs the package {package}.", f"pip install 'harness[{name}]'"
    )


class Tracking:
    """Passes the events of a run on to a tracker."""

    def __init__(
        self, tracker: Tracker, folder: Path, runs: Path, warn: Callable[[str], None]
    ) -> None:
        """Read the record of stages and epochs that were tracked before.

        Args:
            tracker: receives the runs.
            folder: folder for a record of what was tracked, so that nothing is tracked twice.
            runs: $HARNESS_RUNS.
            warn: function that shows a message.
        """
        self._tracker, self._runs, self._warn = tracker, runs, warn
        self._file = folder / "tracked.json"
        self._num_epochs: dict[str, int] = {}
        self._ended: set[str] = set()
        try:
            state = json.loads(self._file.read_text())
            self._num_epochs, self._ended = dict(state["num_epochs"]), set(state["ended"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the first run, or a damaged record: everything is tracked again
        self._open: dict[str, TrackedRun] = {}
        self._training: dict[str, Stage] = {}
        self._read_at = 0.0
        self._has_failed = False

    def catch_up(self, stages: Sequence[Stage]) -> None:
        """Track the stages that are already done, and write the record once."""
        left = [stage for stage in stages if is_tracked(stage) and stage.key not in self._ended]
        if left:
            self._guard(self._finish, left)

    def __call__(self, event: Event) -> None:
        """Handle an event of the run."""
        stage = event.stage
        if event.what == "waiting":
            if time.monotonic() - self._read_at >= READ_EVERY_S:
                self._read_at = time.monotonic()
                for running in self._training.values():
                    self._guard(self._log_epochs, running)
        elif stage is None or not is_tracked(stage):
            return
        elif event.what == "started":
            self._training[stage.key] = stage
        else:
            self._training.pop(stage.key, None)
            if event.what == "done":
                self.catch_up([stage])
            elif event.what == "failed":
                self._guard(self._fail, stage)

    def close(self) -> None:
        """Close the tracker."""
        self._guard(self._tracker.close)

    def _guard(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._has_failed:
            return
        try:
            action(*arguments)
        except Exception as error:  # trackers may raise any error; results do not depend on them
            self._has_failed = True
            self._warn(f"The tracker failed and is not used any more: {first_line(error)}")

    def _log_epochs(self, stage: Stage) -> None:
        if stage.key in self._ended:
            return
        try:
            epochs = json.loads((stage.folder(self._runs) / EPOCHS_FILE).read_text())
        except (OSError, ValueError):
            return
        if len(epochs) > self._num_epochs.get(stage.key, 0):
            self._add(stage, epochs)
            self._save()

    def _add(self, stage: Stage, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Log the epochs that were not logged before."""
        num_known = self._num_epochs.get(stage.key, 0)
        for number, epoch in enumerate(epochs[num_known:], start=num_known + 1):
            values = flat_numbers(epoch)
            values.pop("epoch", None)
            self._tracker.log(self._begun(stage), values, number)
            self._num_epochs[stage.key] = number

    def _finish(self, stages: Sequence[Stage]) -> None:
        try:
            for stage in stages:
                self._log_result(stage)
        finally:  # record also what a failing tracker has received
            self._save()

    def _log_result(self, stage: Stage) -> None:
        """Log a stage's remaining epochs and its result, and end its run, if it has a result."""
        record = result.load(stage.folder(self._runs))
        if record is None:
            return
        metrics = dict(record.metrics)
        self._add(stage, metrics.pop("epochs", ()))
        values = flat_numbers(metrics)
        if (rate := record.timing.get("img_per_s")) is not None:
            values["img_per_s"] = float(rate)
        values["wall_s"] = record.wall_s
        run = self._begun(stage)
        self._tracker.log(run, values, 0)
        self._tracker.end(run, True)
        self._open.pop(stage.key)
        self._num_epochs.pop(stage.key, None)
        self._ended.add(stage.key)

    def _fail(self, stage: Stage) -> None:
        if stage.key in self._open:
            self._tracker.end(self._open.pop(stage.key), False)

    def _begun(self, stage: Stage) -> TrackedRun:
        if stage.key not in self._open:
            run = TrackedRun(stage.key, stage.name, stage.kind, flat_settings(stage.config))
            self._tracker.begin(run)
            self._open[stage.key] = run
        return self._open[stage.key]

    def _save(self) -> None:
        state = {"num_epochs": self._num_epochs, "ended": sorted(self._ended)}
        write_json(self._file, state)


def is_tracked(stage: Stage) -> bool:
    """Return True for stages that load, train, evaluate, transfer or score a model."""
    return stage.spec.in_status == "models"


def flat_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return path (such as test/top1) -> number for a record's finite numbers, except in lists."""
    return {
        name: float(value)
        for name, value in _leaves(record, "/")
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def flat_settings(config: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return dotted name -> value of each setting that is not None; lists become text."""
    return {
        name: value if isinstance(value, str | int | float | bool) else json.dumps(value)
        for name, value in _leaves(config, ".")
        if value is not None
    }


def _leaves(
    record: Mapping[str, Any], separator: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, separator, f"{prefix}{name}{separator}")
        else:
            yield f"{prefix}{name}", value
