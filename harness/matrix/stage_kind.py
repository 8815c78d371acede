"""Kinds of stages: what planning, running and estimating need to know, without importing torch.

Each kind is a package `harness/stages/<kind>/`. Its `spec.py` holds `SPEC`, a `StageKind`; its
`run.py` holds `run(context) -> Outcome`. A new kind needs only a new folder; to run its stages,
`harness/matrix/expand.py` must yield them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from writers import names

if TYPE_CHECKING:
    from harness.matrix.stage import Stage
    from harness.matrix.workload import Counts, Workload

STAGES_PACKAGE = "harness.stages"


# Place of a stage in `harness status`: in the row of its model, or in a separate line above.
StatusPlace = Literal["models", "preparation"]


def constant_work(config: Mapping[str, Any]) -> float:
    """Return 1: the work of a stage that passes over its images once."""
    return 1.0


@dataclass(frozen=True)
class StageKind:
    """Declaration of one kind of stage.

    Attributes:
        version: part of every key of this kind. Raise it when a change to the code changes
            results, so that old results are not reused.
        needs_gpu: the stage uses a GPU if there is one.
        multi_process: several processes can run the stage together, one per GPU.
        tolerates_failed_needs: the stage runs even if stages that it needs have failed, and runs
            again after they succeed.
        on_demand: the stage is dropped from the matrix if no other stage needs it.
        makes_model: the stage leaves a model, which evaluations and transfers use.
        in_status: where `harness status` shows the stage; None means it is not shown.
        input_settings: names of settings that are digests of files that no stage writes: images of
            a dataset, or weights of a model. Empty if the stage reads no such files.
        outputs: names of files in the stage's folder that other stages read.
        recorded_outputs: (metrics, stage folder, data folder) -> further files that other stages
            read, with their size in bytes (None means any size).
        work: config -> amount of computation, in passes over the images. Used to start long
            paths first, and to scale measured times.
        workloads: (stage, image counts by role) -> steps whose times the estimate adds up. None
            means that the time of such a stage cannot be estimated from steps.
        counts_once: the progress of a running stage counts up once for its whole training, so its
            end can be predicted. A last workload that trains nothing comes after the count. Other
            kinds start a new count for each pass or split.
        is_incomplete: metrics -> True if the stage ran without some of its needs, so that the next
            run repeats it. None means never.
        chosen_fraction: config of a shortlist (`Stage.gated_by`) -> expected fraction of the stages
            that it lets run. None for kinds that select no models.
    """

    version: int
    needs_gpu: bool = True
    multi_process: bool = False
    tolerates_failed_needs: bool = False
    on_demand: bool = False
    makes_model: bool = False
    in_status: StatusPlace | None = None
    input_settings: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    recorded_outputs: (
        Callable[[Mapping[str, Any], Path, Path], Mapping[Path, int | None]] | None
    ) = None
    work: Callable[[Mapping[str, Any]], float] = constant_work
    workloads: Callable[[Stage, Mapping[str, Counts]], Iterator[Workload]] | None = None
    counts_once: bool = False
    is_incomplete: Callable[[Mapping[str, Any]], bool] | None = None
    chosen_fraction: Callable[[Mapping[str, Any]], float] | None = None

    @property
    def leaves_files(self) -> bool:
        """True if other stages read files that this kind writes."""
        return bool(self.outputs or self.recorded_outputs)

    def output_files(
        self, metrics: Mapping[str, Any], folder: Path, data: Path
    ) -> dict[Path, int | None]:
        """List the files that other stages read, with their size in bytes (None means any size).

        Args:
            metrics: metrics of the stage's result.
            folder: the stage's folder.
            data: the folder of `.beton` files, $HARNESS_DATA.

        Raises:
            KeyError, TypeError, AttributeError: the metrics belong to another kind.
        """
        files: dict[Path, int | None] = {folder / name: None for name in self.outputs}
        if self.recorded_outputs is not None:
            files |= self.recorded_outputs(metrics, folder, data)
        return files


@cache
def find(kind: str, package: str = STAGES_PACKAGE) -> StageKind:
    """Import the declaration of a kind.

    Args:
        kind: name of a package in `package`.
        package: package that is searched before `harness.stages`.

    Raises:
        UserError: there is no such kind. The message names similar kinds.
    """
    for searched in dict.fromkeys((package, STAGES_PACKAGE)):
        module = f"{searched}.{kind}.spec"
        try:
            spec: StageKind = importlib.import_module(module).SPEC
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the spec exists; a module that it imports is missing
        else:
            return spec
    raise names.unknown("kind of stage", kind, names.names(STAGES_PACKAGE))
