"""What starts stages: the contract. Each launcher of `harness/launchers/` only ever runs `python -m harness.worker`.

`harness/launchers/NAME.py` has `open(settings: LauncherSettings) -> Launcher`.
"""

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from harness.matrix import stage_kind
from harness.matrix.stage import Stage
from harness.matrix.stage_kind import STAGES_PACKAGE, StageKind
from harness.runner.fork_server import ForkServer
from harness.runner.retry import FailureCause
from harness.system.folders import Folders
from writers.errors import UserError

# OpenMP and BLAS size their pools by these when they load. NUMBA_NUM_THREADS is not among them: it is a ceiling that
# FFCV must not find below the threads it asks for.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class LauncherSettings:
    """What a person says about where stages run."""

    folders: Folders
    num_jobs: int | None = None  # stages side by side; None: what the machine carries
    device: Literal["auto", "cpu", "cuda"] = "auto"
    stages_package: str = STAGES_PACKAGE  # whose modules run the stages
    checkpoint_minutes: float = 5.0  # of training, between two checkpoints
    trace_steps: int = 0  # of each pretraining, for a profile; 0: none
    num_threads: int | None = None  # CPU threads of a stage; None: the launcher's choice
    jobs_per_gpu: int = 1  # stages that share a GPU
    options: Mapping[str, str] = field(
        default_factory=dict
    )  # what only one launcher knows: ray's address, Slurm's partition
    gpus_per_stage: int = 1  # of each pretraining, with a process for each GPU
    began_at: float | None = (
        None  # of the run, by the file system's clock: what another run has tried and
    )
    # failed at since is not tried again. None: everything is
    fork_server: ForkServer | None = (
        None  # of workers on this machine, begun early; the launcher's from then on
    )

    def worker_command(self, device: str, num_threads: int) -> list[str]:
        """What starts a warm worker on a machine that sees the same folders under the same paths."""
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
        """Declaration of a kind of stage."""
        return stage_kind.find(kind, self.stages_package)

    def run_module(self, kind: str) -> str:
        """Name of the module that runs stages of a kind."""
        return f"{self.stages_package}.{kind}.run"

    def refuse_unknown_options(self, launcher: str, known: Sequence[str]) -> None:
        """Raises UserError for an option that this launcher does not have: a setting without effect is a mistake."""
        for name in self.options:
            if name not in known:
                has = f"It has {', '.join(known)}." if known else "It has none."
                raise UserError(f"The launcher {launcher} has no option {name}.", has)


def request_line(folder: Path, *, shares_gpu: bool) -> bytes:
    """What a warm worker is told on its stdin. shares_gpu: other stages may run on the stage's GPU meanwhile."""
    return f"{json.dumps({'stage': str(folder), 'shares_gpu': shares_gpu})}\n".encode()


@dataclass(frozen=True)
class Finished:
    """A started stage has come to an end."""

    folder: Path
    # stopped: asked to stop, has a checkpoint; busy: another process holds this stage now
    status: Literal["done", "failed", "stopped", "busy"]
    message: str = ""  # of a failure: the line that says most; error.txt has the rest
    cause: FailureCause = ""  # of a failure


class Launcher(Protocol):
    """A context manager: leaving it ends every worker, gently first, and leaves no process behind."""

    settings: LauncherSettings

    @property
    def num_slots(self) -> int:
        """About how many stages run side by side, for people."""

    def prefetch(self, kinds: Collection[str]) -> None:
        """Stages of these kinds are to come: a hint, to load what they need."""

    def can_start(self, stage: Stage) -> bool:
        """Whether this stage may start now. Asked of one for all that are like it (`harness.runner.gpu_packing`)."""

    def start(self, stage: Stage, folder: Path) -> None:
        """Run the stage, whose orders are in its folder. Only called where `can_start` says yes."""

    def wait(self, timeout_s: float) -> list[Finished]:
        """What has finished, waiting at most so long for the first."""

    def stop(self, grace_s: float) -> list[Finished]:
        """Ask what runs to save and stop; kill after the grace time. Returns how each ended."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
