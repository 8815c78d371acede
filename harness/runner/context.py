"""What a running stage gets and returns."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.matrix import stage_kind
from harness.matrix.stage import FILE_NAME, REWRITE, key_of
from harness.runner.result import Result
from harness.system.atomic_write import write_json
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from writers.errors import UserError


@dataclass(frozen=True)
class StageContext:
    """What a running stage is given. `harness/stages/<kind>.py` has `run(context) -> Outcome`."""

    config: dict[str, Any]
    folder: Path  # the stage's own; scratch files and checkpoints go here
    needs: dict[str, Result]  # results of the needed stages, by role
    need_folders: dict[str, Path]  # and their folders
    data: Path  # $HARNESS_DATA: betons
    raw: Path  # $HARNESS_RAW: what people downloaded
    num_threads: int  # CPU threads this stage may use
    device: str  # "cpu", "cuda:0"
    stop_requested: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = 300.0  # of training
    trace_steps: int = 0  # how many steps of training to trace into the folder
    group: ProcessGroup = (
        SINGLE_PROCESS  # this process among those that run the stage together; the first one writes
    )
    phase: dict[str, float] = field(
        default_factory=dict
    )  # where the present count began: total, done, and at what time

    def progress(self, **values: Any) -> None:
        """Say how far the stage is (`done`, `total`, `img_per_s`, `note`); read by `harness status`. Cheap, not free.

        Adds `eta_s`, of this count, from what was done since it began; a count that falls, or to another total, is another one.
        """
        if not self.group.is_main:
            return
        done, total, now = values.get("done"), values.get("total"), time.monotonic()
        if done is not None and total is not None:
            if self.phase.get("total") != total or done < self.phase["done"]:
                self.phase.update(total=total, done=done, at=now)
            elif done > self.phase["done"]:
                values["eta_s"] = (
                    (now - self.phase["at"]) * (total - done) / (done - self.phase["done"])
                )
        write_json(self.folder / "progress.json", values)


@dataclass(frozen=True)
class Outcome:
    """What a stage hands back; the worker wraps it into a Result."""

    metrics: dict[str, Any]
    timing: dict[str, Any] = field(default_factory=dict)


class Stopped(Exception):
    """Raised by a stage that was asked to stop and has left a checkpoint: neither done nor failed."""


class OutOfMemory(UserError):
    """Raised by a stage that ran out of memory where another try may go well: in smaller parts, or with others gone."""


def load_spec(folder: Path, package: str = stage_kind.STAGES_PACKAGE) -> dict[str, Any]:
    """What `Stage.describe` said, from the stage's folder. Raises UserError where these are not the orders of this stage.

    package: where the stage's kind is declared."""
    path = folder / FILE_NAME
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        key = key_of(
            told["kind"],
            stage_kind.find(told["kind"], package).version,
            told["config"],
            {role: need["key"] for role, need in told["needs"].items()},
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is not there: nobody has said what this stage is to do.", REWRITE
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__} {error}", REWRITE) from error
    if key != folder.name:
        raise UserError(
            f"{path} does not belong to this folder: it was changed by hand, or is of another version of the code.",
            REWRITE,
        )
    return told
