"""Steps on noise before training begins, which leave no mark: does compiling pay?"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from harness.system.out_of_memory import is_out_of_memory
from harness.train.compilation import MODES, forget
from harness.train.trainee import ModelTrainee
from writers.errors import UserError

NUM_TIMED = 3
WORTH_IT = 0.97  # a compiled step must take less than this share of an eager one


def noise_batch(
    batch_size: int, resolution: int, num_classes: int, device: str
) -> tuple[Tensor, Tensor]:
    """As a loader's: uint8 [B, 3, R, R] in channels_last, and int64 [B]."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        256, (batch_size, resolution, resolution, 3), dtype=torch.uint8, generator=generator
    )
    labels = torch.arange(batch_size) % num_classes
    return images.to(device).permute(0, 3, 1, 2), labels.to(device)


@contextmanager
def unchanged(trainee: ModelTrainee, device: str | torch.device) -> Iterator[None]:
    """Whatever the trainee learns inside is forgotten behind; random numbers go on as if none had been drawn."""
    kept = _on_cpu(trainee.state_dict())
    trainee.step.alone = True  # a process whose memory runs out must not leave others waiting
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        try:
            yield
        finally:
            trainee.step.alone = False
            trainee.load_state_dict(
                {
                    **kept,
                    "compiled": trainee.compiled,
                    "step": {**kept["step"], "num_parts": trainee.step.num_parts},
                }
            )


def choose_compiled(
    trainee: ModelTrainee,
    batch: tuple[Tensor, Tensor],
    setting: Literal["off", "auto", "on"],
    device: str,
) -> dict[str, Any]:
    """Let the trainee compute with torch.compile where the setting says so; returns what was measured.

    `auto` takes the fastest of the eager step, the compiled one, and on a GPU the compiled one inside CUDA graphs, and either
    with its whole attack in one CUDA graph. Compiled numbers differ from eager ones in the last bits, so where `auto` may
    choose, two machines may not agree bit for bit.
    Returns `chosen`, and by name `compile_s` and `step_s` (or why it failed). Raises UserError where `on` fails.
    """
    measured: dict[str, Any] = {"chosen": "eager"}
    if setting == "off":
        return measured
    forget()  # of stages that this process ran before: what they were must not decide what pays here
    on_gpu = torch.device(device).type == "cuda"
    names = (
        ["compiled"] if setting == "on" else ways(on_gpu, attacked=trainee.step.attack is not None)
    )
    with unchanged(trainee, device):
        for name in names:
            trainee.compile(name)
            try:
                started = time.perf_counter()
                trainee.train_batch(*batch)
                wait_for(device)
                first_s = time.perf_counter() - started
                step_s = min(
                    timed(lambda: trainee.train_batch(*batch), device) for _ in range(NUM_TIMED)
                )
            except Exception as error:  # whatever a compiler can raise; eager code has run before
                if is_out_of_memory(error):
                    raise
                if setting == "on" or name == "eager":
                    raise UserError(
                        f"torch.compile failed: {_first_line(error)}", "Use compile: off."
                    ) from error
                measured[name] = {"failed": _first_line(error)}
                continue
            measured[name] = {"compile_s": max(0.0, first_s - step_s), "step_s": step_s}
        if setting == "on":
            measured["chosen"] = "compiled"
        else:
            limit = WORTH_IT * measured["eager"]["step_s"]
            fast = [
                name for name in names[1:] if measured[name].get("step_s", float("inf")) < limit
            ]
            measured["chosen"] = min(
                fast, key=lambda name: measured[name]["step_s"], default="eager"
            )
        trainee.compile(measured["chosen"])
    return measured


def ways(on_gpu: bool, *, attacked: bool) -> list[str]:
    """The names of harness.train.compilation.MODES that can pay there."""
    return [
        name
        for name, (mode, captured) in MODES.items()
        if (on_gpu or not (captured or mode == "reduce-overhead")) and (attacked or not captured)
    ]


def timed(step: Callable[[], None], device: str) -> float:
    """Seconds, until the device is through with it."""
    started = time.perf_counter()
    step()
    wait_for(device)
    return time.perf_counter() - started


def wait_for(device: str | torch.device) -> None:
    """Until the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _on_cpu(state: Any) -> Any:
    """A copy that shares no memory with the original, as a checkpoint's."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return (
        type(state)(_on_cpu(value) for value in state) if isinstance(state, list | tuple) else state
    )
