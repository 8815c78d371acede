"""Interface between the worker and the code of a stage."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.matrix import stage_kind
from harness.matrix.stage import FILE_NAME, REWRITE, StageSpec, key_of
from harness.runner.result import Result
from harness.system.atomic_write import write_json
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from writers.errors import UserError

EPOCHS_FILE = "epochs.json"  # in the folder of a stage that trains: records of epochs so far


@dataclass(frozen=True)
class StageContext:
    """Arguments of `harness.stages.<kind>.run.run(context) -> Outcome`.

    Attributes:
        config: the stage's resolved settings.
        folder: the stage's own folder, for scratch files and checkpoints.
        needs: role -> result of the needed stage. A role is the use of a result, such as "data".
        need_folders: role -> folder of the needed stage.
        data: folder of `.beton` files, $HARNESS_DATA.
        raw: folder of downloaded datasets, $HARNESS_RAW.
        num_threads: CPU threads that the stage may use.
        device: "cpu" or "cuda:0".
        stop_requested: returns True once the stage should save a checkpoint and raise Stopped.
        checkpoint_every_s: seconds of training between two checkpoints.
        trace_steps: training steps to trace into the folder; 0 for no trace.
        group: processes that run the stage together; rank 0 writes its files.
        phase: state of `progress`: `total` of the current count, and its first `done` with the
            monotonic time `at`.
    """

    config: dict[str, Any]
    folder: Path
    needs: dict[str, Result]
    need_folders: dict[str, Path]
    data: Path
    raw: Path
    num_threads: int
    device: str
    stop_requested: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = 300.0
    trace_steps: int = 0
    group: ProcessGroup = SINGLE_PROCESS
    phase: dict[str, float] = field(default_factory=dict)

    def progress(self, **values: Any) -> None:
        """Write the stage's progress for `harness status`. Writes a small file on each call.

        Adds `eta_s`, the remaining seconds of the current count at its average speed, if the count
        has begun and is not complete. A new count starts if `done` is less than the first `done` of
        the count, or if `total` changes.

        Args:
            values: any of `done`, `total`, `img_per_s` and `note`.
        """
        if not self.group.is_main:
            return
        done, total, now = values.get("done"), values.get("total"), time.monotonic()
        if done is not None and total is not None:
            if self.phase.get("total") != total or done < self.phase["done"]:
                self.phase.update(total=total, done=done, at=now)
            elif self.phase["done"] < done < total:
                values["eta_s"] = (
                    (now - self.phase["at"]) * (total - done) / (done - self.phase["done"])
                )
        write_json(self.folder / "progress.json", values)

    def record_epochs(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Write the records of all epochs so far, for trackers that follow a training."""
        if self.group.is_main:
            write_json(self.folder / EPOCHS_FILE, list(epochs))


@dataclass(frozen=True)
class Outcome:
    """Return value of a stage; the worker wraps it into a `Result`.

    The types of metrics and timing are in `harness/stages/<kind>/record.py`.
    """

    metrics: Mapping[str, Any]
    timing: Mapping[str, Any] = field(default_factory=dict)


class Stopped(Exception):
    """Raised by a stage that was asked to stop, after saving a checkpoint."""


class OutOfMemoryError(UserError):
    """Raised by a stage that ran out of memory, if a retry may succeed.

    A retry may use smaller micro-batches, or other stages may have freed the GPU.
    """


class RestartRequiredError(UserError):
    """Raised by a stage whose process cannot be used again, as after a failed CUDA graph capture.

    The stage is repeated in a new process. Before it raises this error, it records in its folder
    what the next attempt must avoid, such as a compile mode.
    """


def load_spec(folder: Path, package: str = stage_kind.STAGES_PACKAGE) -> StageSpec:
    """Read a stage's stage.json.

    Args:
        folder: folder of the stage.
        package: package that declares the stage's kind.

    Raises:
        UserError: the file is missing or damaged, or the hash of its content is not the folder's
            name.
    """
    path = folder / FILE_NAME
    try:
        spec: StageSpec = json.loads(path.read_text())
        key = key_of(
            spec["kind"],
            stage_kind.find(spec["kind"], package).version,
            spec["config"],
            {role: need["key"] for role, need in spec["needs"].items()},
        )
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.", REWRITE) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__} {error}", REWRITE) from error
    if key != folder.name:
        raise UserError(
            f"{path} does not belong to this folder: it was changed by hand, or written by "
            "another version of the code.",
            REWRITE,
        )
    return spec
