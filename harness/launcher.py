"""What starts stages: the contract. Each launcher of `harness/launchers/` only ever runs `python -m harness.worker`.

`harness/launchers/NAME.py` has `open(settings: LauncherSettings) -> Launcher`.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from harness.folders import Folders
from harness.retry import Cause


@dataclass(frozen=True)
class LauncherSettings:
    """What a person says about where stages run."""

    folders: Folders
    num_jobs: int | None = None                         # stages side by side; None: what the machine carries
    device: Literal["auto", "cpu", "cuda"] = "auto"
    stages_package: str = "harness.stages"              # whose modules run the stages
    checkpoint_minutes: float = 5.0                     # of training, between two checkpoints
    trace_steps: int = 0                                # of each pretraining, for a profile; 0: none


@dataclass(frozen=True)
class Finished:
    """A started stage has come to an end."""

    folder: Path
    # stopped: asked to stop, has a checkpoint; busy: another process holds this stage now
    status: Literal["done", "failed", "stopped", "busy"]
    message: str = ""                                   # of a failure: the line that says most; error.txt has the rest
    cause: Cause = ""                                   # of a failure


class Launcher(Protocol):
    """A context manager: leaving it ends every worker, gently first, and leaves no process behind."""

    @property
    def num_slots(self) -> int:
        """About how many stages run side by side, for people."""

    def has_room(self, kind: str) -> bool:
        """Whether a stage of this kind may start now."""

    def start(self, folder: Path) -> None:
        """Run the stage of this folder. Only called where `has_room` says yes."""

    def wait(self, timeout_s: float) -> list[Finished]:
        """What has finished, waiting at most so long for the first."""

    def stop(self, grace_s: float) -> list[Finished]:
        """Ask what runs to save and stop; kill after the grace time. Returns how each ended."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...
