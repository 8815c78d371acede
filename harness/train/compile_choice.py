"""Store the compile mode of a stage in its folder, so that a resumed run computes as before.

A failed capture of a CUDA graph, or a wrongly compiled kernel, may leave the process without a
usable GPU. The file in the folder then excludes the compile mode that failed and those that would
also fail, and the stage is repeated in a new process.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from harness.runner.context import RestartRequiredError
from harness.system.atomic_write import write_json
from harness.train import compilation
from harness.train.autotune import choose_compile_mode, compile_modes
from harness.train.records import CompileMeasurement
from harness.train.step import TrainStep

FILE_NAME = "compile.json"


@dataclass(frozen=True)
class CompileChoice:
    """Content of the file FILE_NAME.

    Attributes:
        measured: Times by mode, and the chosen mode; see `choose_compile_mode`. None if no mode was
            chosen yet.
        excluded: Mode that is not tried -> reason.
    """

    measured: CompileMeasurement | None = None
    excluded: dict[str, str] = field(default_factory=dict)


def choose(
    learner: TrainStep,
    batch: tuple[Tensor, Tensor],
    setting: Literal["off", "auto", "on"],
    device: str,
    folder: Path,
) -> CompileMeasurement:
    """Set the learner's compile mode. `auto` takes the recorded mode, or else the fastest one.

    Args:
        learner: Training step whose mode is set.
        batch: Images, uint8 [B, 3, R, R], and labels, int64 [B], of the size to compile for.
        setting: `compile` in a recipe.
        device: Device of the learner.
        folder: Folder of the stage. `record` writes the choice there.

    Returns:
        The chosen mode, and the measurements of the modes that were tried.

    Raises:
        RestartRequiredError: A mode of `auto` left the GPU unusable. It is excluded in the folder.
        UserError: The setting is `on`, and compilation failed.
    """
    if setting != "auto":
        return choose_compile_mode(learner, batch, setting, device)
    learner.excluded_modes = frozenset(read(folder).excluded)
    modes = compile_modes(
        torch.device(device).type == "cuda", learner.is_attacked, learner.num_micro_batches
    )

    def measure(
        excluded: Collection[str], exclude: Callable[[str, str], None]
    ) -> CompileMeasurement:
        return choose_compile_mode(
            learner, batch, setting, device, excluded=excluded, exclude=exclude
        )

    measured = recorded_or(measure, modes, folder)
    if learner.compile_mode != measured["chosen"]:
        learner.compile(measured["chosen"], len(batch[1]))
    return measured


def recorded_or(
    measure: Callable[[Collection[str], Callable[[str, str], None]], CompileMeasurement],
    modes: Collection[str],
    folder: Path,
) -> CompileMeasurement:
    """Return the choice recorded in the folder; measure if it has none or the mode is unavailable.

    Args:
        measure: Tries the modes and chooses one. Its arguments are the excluded modes, and a
            function that it calls with a mode and a reason before it raises CaptureFailedError.
        modes: Keys of `compilation.MODES` that are available.
        folder: Folder of the stage.

    Returns:
        The chosen mode, and the measurements of the modes that were tried.

    Raises:
        RestartRequiredError: A mode left the GPU unusable. It is excluded in the folder.
    """
    recorded = read(folder)
    if recorded.measured is not None and recorded.measured["chosen"] in modes:
        compilation.reset()  # discard graphs of earlier stages, as a measurement does
        return recorded.measured
    failures: dict[str, str] = {}
    try:
        return measure(recorded.excluded, failures.__setitem__)
    except Exception as error:
        # The error may not be CaptureFailedError: `restore_after` needs the GPU, too, and may have
        # raised another error. So look at `failures`.
        for mode, reason in failures.items():
            raise restart_without(folder, mode, reason) from error
        raise


def record(folder: Path, measured: CompileMeasurement) -> None:
    """Write a choice to the stage's folder, for later attempts of the stage."""
    write_json(folder / FILE_NAME, asdict(CompileChoice(measured, read(folder).excluded)))


def restart_without(folder: Path, mode: str, reason: str) -> RestartRequiredError:
    """Exclude a mode, and others that would also fail, in the folder; return the error to raise."""
    failed = compilation.MODES[mode]
    alike = [
        name
        for name, kind in compilation.MODES.items()
        if name == mode
        or (kind.in_cuda_graph and failed.in_cuda_graph)
        or (kind.torch_mode is not None and mode == "compiled")
    ]
    excluded = {**read(folder).excluded, **dict.fromkeys(alike, reason)}
    write_json(folder / FILE_NAME, asdict(CompileChoice(None, excluded)))
    return RestartRequiredError(
        f"compile: {mode} failed, and may have left the GPU unusable for this process: {reason}",
        f"The next attempt will not use {', '.join(alike)}.",
    )


def read(folder: Path) -> CompileChoice:
    """Read FILE_NAME in a stage's folder; a missing or damaged file gives an empty choice."""
    try:
        content = json.loads((folder / FILE_NAME).read_text())
        measured, excluded = content["measured"], content["excluded"]
        if measured is not None and measured["chosen"] not in compilation.MODES:
            measured = None
        return CompileChoice(
            measured, {str(mode): str(reason) for mode, reason in excluded.items()}
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return CompileChoice()
