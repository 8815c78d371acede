"""Interface of launchers, which start stages.

A launcher is a module `harness/runner/launchers/NAME.py`. It has `Options`, a subclass of
`LauncherOptions` with the launcher's own options, and
`open(settings: LauncherSettings, options: Options) -> Launcher`. Every launcher starts
`python -m harness.worker` processes and reports how each stage ended.
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from harness.matrix import stage_kind
from harness.matrix.stage import Stage
from harness.matrix.stage_kind import STAGES_PACKAGE, StageKind
from harness.runner.fork_server import ForkServer
from harness.runner.protocol import Status
from harness.runner.retry import FailureCause
from harness.system.folders import Folders
from writers import names
from writers.errors import UserError
from writers.settings_errors import sentence

# OpenMP and BLAS read these variables when they are loaded. NUMBA_NUM_THREADS is left out on
# purpose: it is an upper limit, and FFCV fails if it requests more threads.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LauncherOptions(BaseModel):
    """Base of a launcher's own options, given as `--launcher-option KEY=VALUE`.

    The `description` of each field is its help text.

    Attributes:
        USES_GPUS_TOGETHER: several GPUs can train one stage (`LauncherSettings.gpus_per_stage`).
    """

    USES_GPUS_TOGETHER: ClassVar[bool] = False

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _on_one_line(cls, value: object) -> object:
        """Refuse text that would add lines to a job script."""
        if isinstance(value, str) and not value.isprintable():
            raise ValueError("it must have printable characters only, on one line")
        return value


Options = TypeVar("Options", bound=LauncherOptions)


def parse_options(model: type[Options], launcher: str, settings: Sequence[str]) -> Options:
    """Parse a launcher's own options.

    Args:
        model: the launcher's `Options`.
        launcher: the launcher's name, for messages.
        settings: texts of the form KEY=VALUE.

    Raises:
        UserError: a text has another form, a key is unknown or repeated, or a value is invalid.
    """
    values: dict[str, str] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise UserError(
                f"--launcher-option {setting}: expected KEY=VALUE.", _help(model, launcher)
            )
        if not model.model_fields:
            raise UserError(
                f"The launcher {launcher} has no options.", f"Remove --launcher-option {setting}."
            )
        if key not in model.model_fields:
            raise names.unknown(f"option of the launcher {launcher}", key, model.model_fields)
        if key in values:
            raise UserError(f"--launcher-option {key} is given twice.", "Keep one of the two.")
        values[key] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # from a check of several options together
            raise UserError(f"--launcher-option: {sentence(first)}") from error
        key = str(first["loc"][0])
        raise UserError(
            f"--launcher-option {key}={values[key]}: {sentence(first)}",
            f"{key}: {model.model_fields[key].description}",
        ) from error


def _help(model: type[LauncherOptions], launcher: str) -> str:
    if not model.model_fields:
        return f"The launcher {launcher} has no options."
    return f"Options of the launcher {launcher}: {', '.join(model.model_fields)}."


@dataclass(frozen=True)
class LauncherSettings:
    """Settings that all launchers share.

    Attributes:
        folders: folders of `.beton` files, raw data and stages, under the same paths on all
            machines.
        num_jobs: stages that run at the same time; None means as many as the machines can run.
        device: "auto" uses GPUs if there are any.
        stages_package: package with the code of the stages.
        checkpoint_minutes: training time between two checkpoints.
        trace_steps: steps of each pretraining to trace; 0 for no trace.
        num_threads: CPU threads of a stage; None means the launcher chooses.
        jobs_per_gpu: stages that may share a GPU.
        gpus_per_stage: GPUs that train each pretraining together, one process per GPU.
        began_at: start of the run, by the file system's clock. A stage that has failed in another
            run since then is not retried. None means every stage is retried.
        fork_server: server of the local launcher, if it was started early. The launcher owns it.
    """

    folders: Folders
    num_jobs: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    stages_package: str = STAGES_PACKAGE
    checkpoint_minutes: float = 5.0
    trace_steps: int = 0
    num_threads: int | None = None
    jobs_per_gpu: int = 1
    gpus_per_stage: int = 1
    began_at: float | None = None
    fork_server: ForkServer | None = None

    def worker_command(self, device: str, num_threads: int) -> list[str]:
        """Return the command of a worker that runs one stage after another.

        The command is valid on every machine with the same folders.

        Args:
            device: "cpu" or "cuda:0".
            num_threads: CPU threads of each stage.
        """
        return [
            sys.executable,
            "-m",
            "harness.worker",
            "--serve",
            "--data-dir",
            str(self.folders.data),
            "--raw-dir",
            str(self.folders.raw),
            "--threads",
            str(num_threads),
            "--device",
            device,
            "--stages-package",
            self.stages_package,
            "--checkpoint-minutes",
            str(self.checkpoint_minutes),
            "--trace",
            str(self.trace_steps),
            "--processes",
            str(self.gpus_per_stage),
            *(["--began-at", repr(self.began_at)] if self.began_at is not None else []),
        ]

    def stage_kind(self, kind: str) -> StageKind:
        """Return the declaration of a kind of stage."""
        return stage_kind.find(kind, self.stages_package)

    def run_module(self, kind: str) -> str:
        """Return the name of the module that runs stages of a kind."""
        return f"{self.stages_package}.{kind}.run"


@dataclass(frozen=True)
class Finished:
    """End of a stage that the launcher started.

    Attributes:
        folder: folder of the stage.
        status: see `harness.runner.protocol.Status`.
        message: the most informative line of a failure; error.txt has the whole message.
        cause: cause of a failure.
    """

    folder: Path
    status: Status
    message: str = ""
    cause: FailureCause = ""


class Launcher(Protocol):
    """Starts stages. A context manager, which on exit ends all workers and other processes.

    Attributes:
        settings: the settings that the launcher was opened with.
    """

    settings: LauncherSettings

    @property
    def num_slots(self) -> int:
        """Approximate number of stages that run at the same time, for display."""

    def prefetch(self, kinds: Collection[str]) -> None:
        """Import the code of these kinds ahead of time; a hint that may be ignored."""

    def can_start(self, stage: Stage) -> bool:
        """Return True if this stage may start now.

        The result must be equal for all stages with equal
        `harness.runner.gpu_packing.resource_key`.
        """

    def start(self, stage: Stage, folder: Path) -> None:
        """Run the stage whose stage.json is in `folder`. Requires `can_start`."""

    def wait(self, timeout_s: float) -> list[Finished]:
        """Return the stages that have ended, waiting at most `timeout_s` for the first."""

    def stop(self, grace_s: float) -> list[Finished]:
        """Ask running stages to save and stop; kill them after the grace time.

        Returns:
            How each stage ended.
        """

    def __enter__(self) -> Self:
        """Return the launcher itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all workers."""
