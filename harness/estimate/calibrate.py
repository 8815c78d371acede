"""Time training and evaluation steps on random images, with the code and device that stages use.

A step of `harness.matrix.workload` is built with random weights, or with the weights of an existing
model. The result is the median of NUM_TIMED steps after one warm-up step. No data are loaded.
"""

import gc
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.modeling.module_modes import cudnn_benchmark
from harness.runner.context import StageContext
from harness.stages._timed_steps import find_step
from harness.system.folders import Folders
from harness.system.gpu import select_gpu
from harness.system.out_of_memory import is_out_of_memory
from harness.train.mode_trials import NUM_TIMED, synchronize, time_step
from writers.errors import UserError

JSON = dict[str, Any]


def measure(
    steps: Sequence[JSON], folders: Folders, *, device: str, num_threads: int
) -> Iterator[tuple[JSON, float | str]]:
    """Time each step.

    Args:
        steps: Steps of `harness.matrix.workload`, as JSON objects.
        folders: Folders with data and weights.
        device: Device of the steps.
        num_threads: Number of CPU threads.

    Yields:
        Each step with its seconds, or with the reason why it cannot be timed. For example, it does
        not fit in memory, or weights are missing.

    Raises:
        UserError: torch cannot use the device.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        select_gpu(device)
        with tempfile.TemporaryDirectory() as scratch, cudnn_benchmark(device):
            context = StageContext(
                config={},
                folder=Path(scratch),
                needs={},
                need_folders={},
                data=folders.data,
                raw=folders.raw,
                num_threads=num_threads,
                device=device,
            )
            for step in steps:
                yield step, _seconds(step, context)
                gc.collect()
                if device.startswith("cuda"):
                    torch.cuda.empty_cache()
    finally:
        torch.set_num_threads(before)


def _seconds(step: JSON, context: StageContext) -> float | str:
    try:
        with find_step(step["step"])(step, context) as run_step:
            run_step()
            synchronize(context.device)
            return statistics.median(time_step(run_step, context.device) for _ in range(NUM_TIMED))
    except UserError as error:
        return error.message
    except Exception as error:  # libraries raise many types; plan without this step
        if is_out_of_memory(error):
            return "there is not enough memory"
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
