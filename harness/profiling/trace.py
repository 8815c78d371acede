"""Trace a few training steps with torch's profiler, for chrome://tracing or ui.perfetto.dev."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

FILE = "trace.json"
SKIPPED_STEPS = 3  # warm-up steps, in which caches fill and kernels are chosen


class StepTrace:
    """Record `num_steps` steps after the warm-up, and write FILE into the folder.

    If `num_steps` is 0, nothing is recorded or written.
    """

    def __init__(self, folder: Path, num_steps: int, device: str) -> None:
        self._path, self._num_steps, self._step = folder / FILE, num_steps, 0
        activities = [
            ProfilerActivity.CPU,
            *([ProfilerActivity.CUDA] if torch.device(device).type == "cuda" else []),
        ]
        self._profiler = torch.profiler.profile(activities=activities) if num_steps > 0 else None
        self.file: str | None = None  # set when the file is written

    def after_step(self) -> None:
        """Start, count or end the recording; call after each training step."""
        if self._profiler is None:
            return
        self._step += 1
        if self._step == SKIPPED_STEPS:
            self._profiler.start()
        elif self._step == SKIPPED_STEPS + self._num_steps:
            self.close()

    def close(self) -> None:
        """Write the trace, also of fewer steps than requested; nothing if no recording began."""
        if self._profiler is not None and self._step >= SKIPPED_STEPS:
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._path))
            self.file = FILE
        self._profiler = None
