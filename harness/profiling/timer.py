"""Time the phases of training steps without synchronizing with the GPU.

A phase is called a span. On a GPU its time is measured by a pair of CUDA events, which are read
once per epoch; on a CPU by a clock. Idle time of the GPU between steps is divided into waiting for
the loader (`data_wait`) and waiting for the batch's copy to the device (`copy`).
"""

import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch

SPANS = ("data_wait", "copy", "augment", "attack", "forward", "backward", "optimizer")
PERCENTILES = (50, 90, 99)
# Below this fraction of the GPU's peak FLOP/s, `verdict` suggests to compile or to enlarge batches.
LOW_PEAK_SHARE = 0.25
NO_IMAGES = "Fits cached features: no images are loaded."
_PLACE = {name: place for place, name in enumerate(SPANS)}
_WAIT, _COPY = _PLACE["data_wait"], _PLACE["copy"]


class Timer:
    """Measure the time of named spans in each step. Spans must not be nested."""

    def __init__(self, device: str, *, enabled: bool = True) -> None:
        """Create a timer.

        Args:
            device: "cpu" or a CUDA device.
            enabled: False measures nothing; use it to find the cost of measuring.
        """
        self.enabled = enabled
        self._on_gpu = torch.device(device).type == "cuda"
        self._pool: list[torch.cuda.Event] = []
        self._pending: list[tuple[int, int, torch.cuda.Event, torch.cuda.Event, float]] = []
        self._steps: list[list[float]] = []  # seconds per span of this epoch's steps
        self._current = [0.0] * len(SPANS)
        self.seconds = dict.fromkeys(SPANS, 0.0)  # summed over completed epochs

    def span(self, name: str) -> AbstractContextManager[None]:
        """Measure the block as the span `name` of SPANS. An exception discards the measurement."""
        if not self.enabled:
            return nullcontext()
        return (_DeviceSpan if self._on_gpu else _HostSpan)(self, _PLACE[name])

    def end_step(self) -> None:
        """Store the spans of the current step, and begin the next step."""
        self._steps.append(self._current)
        self._current = [0.0] * len(SPANS)

    def end_epoch(self) -> dict[str, Any]:
        """Return the times of the epoch, and begin the next epoch. Waits for the GPU.

        Returns:
            `spans_s`: span -> seconds in the whole epoch. `percentiles_ms`: for a whole step and
            for each span, PERCENTILES over the steps, in ms.
        """
        steps = self._read()
        self._steps = []
        spans_s = dict(zip(SPANS, steps.sum(0).tolist(), strict=True))
        for name, seconds in spans_s.items():
            self.seconds[name] += seconds
        columns = {"step": steps.sum(1), **dict(zip(SPANS, steps.T, strict=True))}
        return {
            "spans_s": spans_s,
            "percentiles_ms": {name: _percentiles_ms(column) for name, column in columns.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint within an epoch. Waits for the GPU."""
        return {"steps": self._read(), "seconds": dict(self.seconds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._steps, self.seconds = state["steps"].tolist(), dict(state["seconds"])

    def clear(self) -> None:
        """Forget all times, so that another training can be measured."""
        self._read()
        self._steps, self._current, self.seconds = [], [0.0] * len(SPANS), dict.fromkeys(SPANS, 0.0)

    def _read(self) -> torch.Tensor:
        """Read the seconds of this epoch's steps so far, float64 [steps, SPANS]."""
        if self._pending:
            self._pending[-1][3].synchronize()
        rows = [*self._steps, self._current]
        for step, place, first, last, host_s in self._pending:
            device_s = first.elapsed_time(last) / 1000
            if place == _WAIT:
                waited_s = min(device_s, host_s)
                rows[step][_COPY] += device_s - waited_s
                device_s = waited_s
            rows[step][place] += device_s
            self._pool += (first, last)
        self._pending.clear()
        return torch.tensor(self._steps, dtype=torch.float64).view(-1, len(SPANS))


class _HostSpan:
    def __init__(self, timer: Timer, place: int) -> None:
        self._timer, self._place = timer, place

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._timer._current[self._place] += time.perf_counter() - self._started


class _DeviceSpan:
    """Span on a GPU. Reuses events, because creating an event costs more than recording it."""

    def __init__(self, timer: Timer, place: int) -> None:
        self._timer, self._place = timer, place

    def __enter__(self) -> None:
        self._started, self._first = time.perf_counter(), self._record()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._timer._pending.append(
                (
                    len(self._timer._steps),
                    self._place,
                    self._first,
                    self._record(),
                    time.perf_counter() - self._started,
                )
            )

    def _record(self) -> torch.cuda.Event:
        pool = self._timer._pool
        event = pool.pop() if pool else torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _percentiles_ms(seconds: torch.Tensor) -> dict[str, float]:
    if len(seconds) == 0:
        return {f"p{percent}": 0.0 for percent in PERCENTILES}
    at = torch.tensor([percent / 100 for percent in PERCENTILES], dtype=torch.float64)
    return {
        f"p{percent}": 1000 * value
        for percent, value in zip(PERCENTILES, seconds.quantile(at).tolist(), strict=True)
    }


def summary(
    spans_s: dict[str, float],
    *,
    num_steps: int,
    num_images: int,
    train_s: float,
    eval_s: float,
    checkpoint_s: float,
    startup_s: float,
    replay_img_per_s: float | None,
    flops: float | None = None,
    peak_flops_per_s: float | None = None,
) -> dict[str, Any]:
    """Build the `timing` record of a result.

    Args:
        spans_s: span -> seconds, summed over the training.
        num_steps: number of training steps, one per batch.
        num_images: images trained on; 0 for a method that fits cached features.
        train_s: seconds of the training loop alone. Rates are divided by it.
        eval_s: seconds spent on evaluation.
        checkpoint_s: seconds spent on checkpoints.
        startup_s: seconds before the first step.
        replay_img_per_s: images/s with one repeated batch; None if it was not measured.
        flops: FLOPs of the whole training; None if unknown.
        peak_flops_per_s: nominal peak FLOP/s of the device; None if unknown.

    Returns:
        The record. `gpu_fed` is the training's rate in images/s divided by `replay_img_per_s`; it
        is above 1 if the replay was slower. `peak_share` is the achieved fraction of the peak. Both
        are None if they are unknown.
    """
    spans = {name: spans_s.get(name, 0.0) for name in SPANS}
    img_per_s = num_images / train_s if train_s > 0 else 0.0
    fed = img_per_s / replay_img_per_s if replay_img_per_s else None
    waits, copies = (
        spans[name] / train_s if train_s > 0 else 0.0 for name in ("data_wait", "copy")
    )
    flops_per_s = flops / train_s if flops is not None and train_s > 0 else None
    peak_share = (
        flops_per_s / peak_flops_per_s if flops_per_s is not None and peak_flops_per_s else None
    )
    return {
        "spans_s": spans,
        "per_step_ms": {
            name: 1000 * seconds / max(1, num_steps) for name, seconds in spans.items()
        },
        "num_steps": num_steps,
        "train_s": train_s,
        "eval_s": eval_s,
        "checkpoint_s": checkpoint_s,
        "startup_s": startup_s,
        "img_per_s": img_per_s,
        "replay_img_per_s": replay_img_per_s,
        "gpu_fed": fed,
        "data_wait_fraction": waits,
        "model_flops_per_s": flops_per_s,
        "peak_share": peak_share,
        "verdict": verdict(waits, copies, peak_share) if num_images else NO_IMAGES,
    }


def verdict(waits: float, copies: float = 0.0, peak_share: float | None = None) -> str:
    """Describe in a sentence how long training waits for data, and suggest a change.

    Args:
        waits: fraction of the training time spent waiting for the loader.
        copies: fraction spent waiting for copies to the GPU.
        peak_share: achieved fraction of the GPU's peak FLOP/s; None if unknown.
    """
    if waits + copies < 0.05:
        busy = f"The loader keeps the model busy {100 * (1 - waits - copies):.0f} % of the time"
        if peak_share is None:
            return f"{busy}."
        if peak_share < LOW_PEAK_SHARE:
            return (
                f"{busy}, at {100 * peak_share:.0f} % of the GPU's peak: try compile: auto, or "
                "a larger batch."
            )
        return f"{busy}, at {100 * peak_share:.0f} % of the GPU's peak."
    if copies > waits:
        return (
            f"Training waits {100 * (waits + copies):.0f} % of the time, mostly for copies of "
            "batches to the GPU: check the PCIe link width, and other jobs on this GPU."
        )
    return (
        f"Training waits for data {100 * waits:.0f} % of the time: give the loader more cores "
        "(fewer parallel jobs), or write dct, smaller or raw images."
    )
