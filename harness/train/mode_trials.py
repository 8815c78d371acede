"""Try the compile modes of a computation; choose the fastest that agrees with the eager mode.

The computation is a training step (`harness.train.autotune`) or the attack of an evaluation
(`harness.train.evaluation_attack`). A mode is skipped if it fails, runs out of memory, or if its
first run differs from the eager one.
"""

import gc
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple, cast

import torch

from harness.system.out_of_memory import is_out_of_memory
from harness.train.cuda_graph_attack import CaptureFailedError
from harness.train.records import CompileMeasurement, ModeTimes
from writers.errors import UserError
from writers.text_names import first_line

NUM_TIMED = 3  # timed runs of each mode after its first run
MAX_TIME_RATIO = 0.97  # a mode must take less than this fraction of the eager time
# Largest relative difference from the eager run that is allowed in a mode's first run, for the loss
# and for the length of the update. Directions are not compared, because rounding to bf16 alone
# moves the update of ResNet-18 with random weights by 0.3 to 1.0 of its length. The rounding
# changes the length by less than 0.04 and the loss by less than 0.03 (24 images at 64 px, clean, L2
# and linf, on a CPU).
MAX_DEVIATION = 0.15


class FirstRun(NamedTuple):
    """Result of a mode's first run. Loss and length must agree between modes.

    Attributes:
        seconds: Time of the run, including compilation.
        loss: Mean loss.
        length: L2 norm of the change of all trained weights, or of the attacked images.
    """

    seconds: float
    loss: float
    length: float


def try_modes(
    modes: Sequence[str],
    setting: Literal["auto", "on"],
    device: str,
    *,
    use: Callable[[str], None],
    first: Callable[[], FirstRun],
    again: Callable[[], float],
    excluded: Collection[str] = (),
    exclude: Callable[[str, str], None] = lambda mode, reason: None,
) -> CompileMeasurement:
    """Run each mode a few times and choose one.

    Args:
        modes: Keys of `compilation.MODES`, the eager one first.
        setting: `auto` chooses the fastest mode, or eager if no other is clearly faster; `on` tries
            only `compiled`, and chooses it.
        device: Device of the computation.
        use: Sets a mode, and restores the state that each mode starts from.
        first: Runs the computation from the restored state.
        again: Runs the computation again, and returns the seconds.
        excluded: Modes that are not tried.
        exclude: Called with the failed mode and the reason before CaptureFailedError is raised.

    Returns:
        `chosen`, the chosen mode, and for each tried mode its `compile_s` and `step_s`, or `failed`
        with the reason. Modes other than eager also have the `deviation` from the eager run, if
        that was tried.

    Raises:
        UserError: The setting is `on`, and compilation failed.
        CaptureFailedError: A mode failed and left the GPU unusable for this process.
        Exception: The eager mode failed, or `on` ran out of memory; the error is not changed.
    """
    measured: dict[str, ModeTimes] = {}
    eager: FirstRun | None = None
    tried = ["compiled"] if setting == "on" else [mode for mode in modes if mode not in excluded]
    for mode in tried:
        use(mode)
        try:
            run = first()
            step_s = min(again() for _ in range(NUM_TIMED))
        except Exception as error:  # a compiler may raise an exception of any type
            reason = first_line(error)[:200]
            if mode == "eager" or (setting == "on" and is_out_of_memory(error)):
                raise
            if setting == "on":
                raise UserError(f"torch.compile failed: {reason}", "Use compile: off.") from error
            if _needs_new_process(error, device):
                exclude(mode, reason)
                raise CaptureFailedError(reason) from error
            # An optional mode may need more memory than eager, and is then skipped.
            measured[mode] = {"failed": reason}
            continue
        measured[mode] = {"compile_s": max(0.0, run.seconds - step_s), "step_s": step_s}
        if mode == "eager":
            eager = run
        elif eager is not None:
            measured[mode]["deviation"] = difference = deviation(run, eager)
            if not difference <= MAX_DEVIATION:
                measured[mode] = {
                    "failed": f"Its first step deviates from the eager one by {difference:.2g}."
                }
    chosen = "compiled" if setting == "on" else _fastest(measured)
    return cast(CompileMeasurement, {**measured, "chosen": chosen})


def _fastest(measured: Mapping[str, ModeTimes]) -> str:
    """Return the fastest mode, or `eager` if no other is faster by the factor MAX_TIME_RATIO."""
    limit = MAX_TIME_RATIO * measured["eager"]["step_s"]
    step_s = {mode: times["step_s"] for mode, times in measured.items() if "step_s" in times}
    fast = [mode for mode in step_s if mode != "eager" and step_s[mode] < limit]
    return min(fast, key=step_s.__getitem__, default="eager")


def deviation(run: FirstRun, eager: FirstRun) -> float:
    """Return the larger of the relative differences of loss and length.

    The result is NaN or inf if a value is not finite.
    """
    pairs = ((run.loss, eager.loss), (run.length, eager.length))
    differences = [0.0 if a == b else abs(a - b) / max(abs(b), 1e-30) for a, b in pairs]
    return float("nan") if any(map(math.isnan, differences)) else max(differences)


def _needs_new_process(error: Exception, device: str) -> bool:
    """Return True if the failure of a mode has left the GPU unusable for this process.

    After a failed capture, torch's allocator keeps the graph's memory, and CUDA may refuse work.
    After an invalid memory access in a kernel, such as a wrongly compiled one, CUDA refuses all
    work.
    """
    if isinstance(error, CaptureFailedError):
        return True
    if torch.device(device).type != "cuda":
        return False
    try:
        synchronize(device)
        torch.ones(1, device=device).sum().item()
        return torch.cuda.is_current_stream_capturing()
    except RuntimeError as refused:
        # Out of memory twice is harmless: the traceback of `error` may still hold all memory.
        return not (is_out_of_memory(error) and is_out_of_memory(refused))


def free_memory_of_trials(device: str) -> None:
    """Free the memory of modes that were not chosen, and reset the peak memory statistics."""
    if torch.device(device).type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def time_step(step: Callable[[], object], device: str | torch.device) -> float:
    """Run a step, and return the seconds until the device has finished it."""
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str | torch.device) -> None:
    """Wait until the device has finished all work submitted so far."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
