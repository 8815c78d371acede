"""Trial steps on noise before training, which restore all state: does compiling pay?

A mode is chosen only if its first step agrees with the eager one, and if it is faster.
"""

import gc
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from harness.system.out_of_memory import is_out_of_memory
from harness.train import compilation
from harness.train.cuda_graph_attack import CaptureFailedError
from harness.train.step import TrainStep
from writers.errors import UserError

NUM_TIMED = 3
MAX_TIME_RATIO = 0.97  # a compiled step must take less than this fraction of an eager one
# Largest deviation of a mode's first step from the eager one: of the loss, and of the length of the
# update of the weights, as fractions. Directions are not compared: at random weights, rounding to
# bf16 alone turns the update of ResNet-18 by 0.3 to 1.0 of its length, but changes its length by
# less than 0.04 and the loss by less than 0.03 (24 images at 64 px, clean, L2 and linf, on a CPU).
MAX_DEVIATION = 0.15


def noise_batch(
    batch_size: int, resolution: int, num_classes: int, device: str
) -> tuple[Tensor, Tensor]:
    """Return noise shaped like a loader's batch, the same at each call.

    Returns:
        Images, uint8 [batch_size, 3, resolution, resolution] in channels_last, and labels,
        int64 [batch_size].
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        256, (batch_size, resolution, resolution, 3), dtype=torch.uint8, generator=generator
    )
    labels = torch.arange(batch_size) % num_classes
    return images.to(device).permute(0, 3, 1, 2), labels.to(device)


@contextmanager
def restore_after(learner: TrainStep, device: str | torch.device) -> Iterator[None]:
    """Restore learner and random state after the block, except compile mode and micro-batches.

    Steps inside the block do not involve other ranks: one of them may run out of memory, and must
    not leave the others waiting.
    """
    saved = _copy_to_cpu(learner.state_dict())
    fork_rng = torch.random.fork_rng([device] if torch.device(device).type == "cuda" else [])
    with fork_rng, learner.without_ddp():
        try:
            yield
        finally:
            _restore(learner, saved)


def _restore(learner: TrainStep, saved: dict[str, Any]) -> None:
    """Load a copy of a saved state, except compile mode and micro-batches.

    torch's optimizers keep the tensors that they are given, and later steps change them.
    """
    kept = {
        "compile_mode": learner.compile_mode,
        "num_micro_batches": learner.num_micro_batches,
    }
    learner.load_state_dict({**_copy_to_cpu(saved), **kept})


def choose_compile_mode(
    learner: TrainStep,
    batch: tuple[Tensor, Tensor],
    setting: Literal["off", "auto", "on"],
    device: str,
    excluded: Collection[str] = (),
    exclude: Callable[[str, str], None] = lambda mode, reason: None,
) -> dict[str, Any]:
    """Choose and set the learner's compile mode.

    `auto` takes the fastest of the eager step, the compiled one, on a GPU also the compiled one in
    CUDA graphs, and each with the attack captured in a CUDA graph. Compiled results differ from
    eager ones in the last bits, so with `auto` two machines may not agree bit for bit. A mode that
    fails, runs out of memory, or whose first step differs from the eager one, is passed over.

    Args:
        learner: What trains.
        batch: Images and labels of the size to compile for.
        setting: `compile` in a recipe.
        device: Device of the learner.
        excluded: Modes that are not tried.
        exclude: Called with the mode and the reason before CaptureFailedError is raised.

    Returns:
        The chosen mode under `chosen`, and per tried mode its `compile_s`, `step_s` and
        `deviation` from the eager step; or `failed` with the reason.

    Raises:
        UserError: `on`, and compilation failed.
        CaptureFailedError: A capture failed, after which the process cannot use its GPU.
    """
    measured: dict[str, Any] = {"chosen": "eager"}
    if setting == "off":
        return measured
    # Graphs of earlier stages of this process must not influence the choice.
    compilation.reset()
    on_gpu = torch.device(device).type == "cuda"
    modes = ["compiled"]
    if setting != "on":
        modes = compile_modes(on_gpu, learner.is_attacked, learner.num_micro_batches)
        modes = [mode for mode in modes if mode not in excluded]
    with restore_after(learner, device):
        saved = _copy_to_cpu(learner.state_dict())
        eager: FirstStep | None = None
        for mode in modes:
            _restore(learner, saved)
            learner.compile(mode, len(batch[1]))
            try:
                first = _first_step(learner, batch, device)
                step_s = min(
                    time_step(lambda: learner.train_batch(*batch), device) for _ in range(NUM_TIMED)
                )
            except Exception as error:  # compilers raise any exception; eager code runs without one
                if _needs_new_process(error, mode, device):
                    exclude(mode, _first_line(error))
                    raise CaptureFailedError(_first_line(error)) from error
                is_fatal = setting == "on" or mode == "eager"
                if is_fatal and is_out_of_memory(error):
                    raise
                if is_fatal:
                    raise UserError(
                        f"torch.compile failed: {_first_line(error)}", "Use compile: off."
                    ) from error
                # An optional mode may need more memory than the eager step, which fits.
                measured[mode] = {"failed": _first_line(error)}
                continue
            measured[mode] = {"compile_s": max(0.0, first.seconds - step_s), "step_s": step_s}
            if mode == "eager":
                eager = first
            elif eager is not None:
                measured[mode]["deviation"] = difference = deviation(first, eager)
                if not difference <= MAX_DEVIATION:
                    measured[mode] = {
                        "failed": f"Its first step deviates from the eager one by {difference:.2g}."
                    }
        if setting == "on":
            measured["chosen"] = "compiled"
        else:
            limit = MAX_TIME_RATIO * measured["eager"]["step_s"]
            fast = [
                mode for mode in modes[1:] if measured[mode].get("step_s", float("inf")) < limit
            ]
            measured["chosen"] = min(
                fast, key=lambda mode: measured[mode]["step_s"], default="eager"
            )
        _release(learner, modes, measured["chosen"], on_gpu)
        learner.compile(measured["chosen"], len(batch[1]))
    if on_gpu:
        # Memory of the other modes, their graphs included, is not part of the training's peak.
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return measured


class FirstStep(NamedTuple):
    """What must agree between modes.

    Attributes:
        seconds: Time of the step, compilation included.
        loss: Mean training loss.
        length: L2 norm of the change of all trained weights.
    """

    seconds: float
    loss: float
    length: float


def _first_step(learner: TrainStep, batch: tuple[Tensor, Tensor], device: str) -> FirstStep:
    """Take a step from the restored state. Resets the learner's totals."""
    trained = [value for value in learner.model.parameters() if value.requires_grad]
    before = [value.detach().clone() for value in trained]
    seconds = time_step(lambda: learner.train_batch(*batch), device)
    changes = [value.detach() - old for value, old in zip(trained, before, strict=True)]
    length = torch.stack(torch._foreach_norm(changes)).norm()
    return FirstStep(seconds, learner.totals()["loss"], float(length))


def deviation(step: FirstStep, eager: FirstStep) -> float:
    """Return the larger relative difference of loss and length; NaN or inf if one is not finite."""
    pairs = ((step.loss, eager.loss), (step.length, eager.length))
    differences = [0.0 if a == b else abs(a - b) / max(abs(b), 1e-30) for a, b in pairs]
    return float("nan") if any(map(math.isnan, differences)) else max(differences)


def _needs_new_process(error: Exception, mode: str, device: str) -> bool:
    """Return True if the failure of a mode has left the GPU unusable for this process.

    After a failed capture, torch's allocator keeps the graph's memory, and CUDA may refuse work.
    """
    if isinstance(error, CaptureFailedError):
        return True
    if torch.device(device).type != "cuda" or not compilation.uses_graphs(mode):
        return False
    try:
        synchronize(device)
        torch.ones(1, device=device).sum().item()
        return torch.cuda.is_current_stream_capturing()
    except RuntimeError:
        return True


def _release(learner: TrainStep, modes: Collection[str], chosen: str, on_gpu: bool) -> None:
    """Free the graphs of the modes that were not chosen.

    Graphs of whole models are global state of torch, and are freed together. torch's cache on disk
    makes it cheap to compile the chosen mode again.
    """
    learner.compile("eager", 0)
    whole = {mode for mode in modes if compilation.MODES[mode].torch_mode == "reduce-overhead"}
    if on_gpu and whole and chosen not in whole:
        compilation.reset()


def compile_modes(on_gpu: bool, is_attacked: bool, num_micro_batches: int = 1) -> list[str]:
    """Return the keys of `compilation.MODES` that may be fastest, the eager one first.

    CUDA graphs of the whole model are left out if gradients are accumulated: torch then raises or
    computes wrong gradients (pytorch#96693, pytorch#169545). Otherwise they are the last, because
    their memory is freed by `compilation.reset` only.
    """
    modes = [
        name
        for name, (torch_mode, in_cuda_graph) in compilation.MODES.items()
        if (on_gpu or not compilation.uses_graphs(name))
        and (is_attacked or not in_cuda_graph)
        and (num_micro_batches == 1 or torch_mode != "reduce-overhead")
    ]
    return sorted(modes, key=lambda name: compilation.MODES[name].torch_mode == "reduce-overhead")


def time_step(step: Callable[[], None], device: str | torch.device) -> float:
    """Return the seconds from the call until the device has finished."""
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str | torch.device) -> None:
    """Wait until the device has finished all work submitted so far."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _copy_to_cpu(state: Any) -> Any:
    """Return a copy that shares no memory with the original, like a checkpoint."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copy_to_cpu(value) for key, value in state.items()}
    return (
        type(state)(_copy_to_cpu(value) for value in state)
        if isinstance(state, list | tuple)
        else state
    )
