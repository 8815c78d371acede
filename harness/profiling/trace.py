"""A trace of a few training steps for chrome://tracing or ui.perfetto.dev, by torch's profiler."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

FILE = "trace.json"
SKIPPED_STEPS = 3  # in which caches fill and kernels are chosen


class StepTrace:
    """`after_step` records the `num_steps` steps behind the first ones, then writes FILE into the folder; 0: none."""

    def __init__(self, folder: Path, num_steps: int, device: str) -> None:
        self._path, self._num_steps, self._step = folder / FILE, num_steps, 0
        activities = [
            ProfilerActivity.CPU,
            *([ProfilerActivity.CUDA] if torch.device(device).type == "cuda" else []),
        ]
        self._profiler = torch.profiler.profile(activities=activities) if num_steps > 0 else None
        self.file: str | None = None  # once it is written

    def after_step(self) -> None:
        if self._profiler is None:
            return
        self._step += 1
        if self._step == SKIPPED_STEPS:
            self._profiler.start()
        elif self._step == SKIPPED_STEPS + self._num_steps:
            self.close()

    def close(self) -> None:
        """Write what there is, also where training was shorter than asked for."""
        if self._profiler is not None and self._step >= SKIPPED_STEPS:
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._path))
            self.file = FILE
        self._profiler = None
