"""Trial steps on noise before training, which restore all state: does compiling pay?"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from harness.system.out_of_memory import is_out_of_memory
from harness.train import compilation
from harness.train.step import TrainStep
from writers.errors import UserError

NUM_TIMED = 3
MAX_TIME_RATIO = 0.97  # a compiled step must take less than this fraction of an eager one


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
            learner.load_state_dict(
                {
                    **saved,
                    "compile_mode": learner.compile_mode,
                    "num_micro_batches": learner.num_micro_batches,
                }
            )


def choose_compile_mode(
    learner: TrainStep,
    batch: tuple[Tensor, Tensor],
    setting: Literal["off", "auto", "on"],
    device: str,
) -> dict[str, Any]:
    """Choose and set the learner's compile mode.

    `auto` takes the fastest of the eager step, the compiled one, on a GPU also the compiled one in
    CUDA graphs, and each with the attack captured in a CUDA graph. Compiled results differ from
    eager ones in the last bits, so with `auto` two machines may not agree bit for bit.

    Args:
        learner: What trains.
        batch: Images and labels of the size to compile for.
        setting: `compile` in a recipe.
        device: Device of the learner.

    Returns:
        The chosen mode under `chosen`, and per tried mode its `compile_s` and `step_s`, or
        `failed` with the reason.

    Raises:
        UserError: `on`, and compilation failed.
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
    with restore_after(learner, device):
        for mode in modes:
            learner.compile(mode, len(batch[1]))
            try:
                first_s = time_step(lambda: learner.train_batch(*batch), device)
                step_s = min(
                    time_step(lambda: learner.train_batch(*batch), device) for _ in range(NUM_TIMED)
                )
            except Exception as error:  # compilers raise any exception; eager code runs without one
                if is_out_of_memory(error):
                    if setting == "on" or mode == "eager":
                        raise
                    # An optional mode may need more memory than the eager step, which fits.
                    measured[mode] = {"failed": _first_line(error)}
                    continue
                if setting == "on" or mode == "eager":
                    raise UserError(
                        f"torch.compile failed: {_first_line(error)}", "Use compile: off."
                    ) from error
                measured[mode] = {"failed": _first_line(error)}
                continue
            measured[mode] = {"compile_s": max(0.0, first_s - step_s), "step_s": step_s}
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
        learner.compile(measured["chosen"], len(batch[1]))
    if on_gpu:
        # Memory of the other modes, their graphs included, is not part of the training's peak.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return measured


def compile_modes(on_gpu: bool, is_attacked: bool, num_micro_batches: int = 1) -> list[str]:
    """Return the keys of `compilation.MODES` that may be fastest.

    CUDA graphs of the whole model are left out if gradients are accumulated: torch then raises or
    computes wrong gradients (pytorch#96693, pytorch#169545).
    """
    return [
        name
        for name, (torch_mode, in_cuda_graph) in compilation.MODES.items()
        if (on_gpu or not (in_cuda_graph or torch_mode == "reduce-overhead"))
        and (is_attacked or not in_cuda_graph)
        and (num_micro_batches == 1 or torch_mode != "reduce-overhead")
    ]


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
