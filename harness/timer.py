"""Where the time of a training run goes, without stopping the GPU.

Spans on a GPU are pairs of CUDA events, read once an epoch; on a CPU they are differences of one clock. Waiting for data is
two things on a GPU: the time in which it had nothing to do is split into the part that the loader kept us waiting for
(`data_wait`) and the rest, in which the batch was on its way to the device (`copy`).
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SPANS = ("data_wait", "copy", "attack", "forward_backward", "optimizer")


class Timer:
    """Adds up named spans. Not for nesting: each moment belongs to one span."""

    def __init__(self, device: str) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event, float]] = []
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time what is inside under `name`. An exception ends the span unrecorded."""
        started = time.perf_counter()
        if not self._on_gpu:
            yield
            self.seconds[name] += time.perf_counter() - started
            return
        first = torch.cuda.current_stream().record_event(torch.cuda.Event(enable_timing=True))
        yield
        last = torch.cuda.current_stream().record_event(torch.cuda.Event(enable_timing=True))
        self._events.append((name, first, last, time.perf_counter() - started))

    def read(self) -> dict[str, float]:
        """Seconds of every span so far. Waits for the GPU: once an epoch."""
        if self._events:
            self._events[-1][2].synchronize()
        for name, first, last, host_s in self._events:
            device_s = first.elapsed_time(last) / 1000
            if name == "data_wait":
                waited_s = min(device_s, host_s)
                self.seconds["copy"] += device_s - waited_s
                device_s = waited_s
            self.seconds[name] += device_s
        self._events.clear()
        return dict(self.seconds)


def summary(spans_s: dict[str, float], *, num_steps: int, num_images: int, train_s: float, eval_s: float,
            checkpoint_s: float, startup_s: float, replay_img_per_s: float | None) -> dict[str, Any]:
    """The `timing` of a result. `train_s` is the wall-clock time of the training loop alone; rates are images over it."""
    spans = {name: spans_s.get(name, 0.0) for name in SPANS}
    img_per_s = num_images / train_s if train_s > 0 else 0.0
    fed = min(1.0, img_per_s / replay_img_per_s) if replay_img_per_s else None
    waits, copies = (spans[name] / train_s if train_s > 0 else 0.0 for name in ("data_wait", "copy"))
    return {"spans_s": spans, "per_step_ms": {name: 1000 * seconds / max(1, num_steps) for name, seconds in spans.items()},
            "num_steps": num_steps, "train_s": train_s, "eval_s": eval_s, "checkpoint_s": checkpoint_s, "startup_s": startup_s,
            "img_per_s": img_per_s, "replay_img_per_s": replay_img_per_s, "fed": fed, "data_wait_fraction": waits,
            "verdict": verdict(waits, copies)}


def verdict(waits: float, copies: float = 0.0) -> str:
    """One sentence on the shares of time in which training waited for the loader, and for copies to the GPU; what to change."""
    if waits + copies < 0.05:
        return f"The loader keeps the model busy {100 * (1 - waits - copies):.0f} % of the time."
    if copies > waits:
        return f"Training waits {100 * (waits + copies):.0f} % of the time, most of it for copies of batches to the GPU."
    return (f"Training waits for data {100 * waits:.0f} % of the time: give the loader more cores (fewer jobs side by side), "
            f"or write smaller or raw images.")
