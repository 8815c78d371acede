"""Where the time of a training run goes, step by step, without stopping the GPU.

Spans on a GPU are pairs of CUDA events, read once an epoch; on a CPU they are differences of one clock. Waiting for data is
two things on a GPU: the time in which it had nothing to do is split into the part that the loader kept us waiting for
(`data_wait`) and the rest, in which the batch was on its way to the device (`copy`).
"""

import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch

SPANS = ("data_wait", "copy", "attack", "forward", "backward", "optimizer")
PERCENTILES = (50, 90, 99)
LOW_PEAK_SHARE = 0.25  # below it, a convolutional network's kernels are too small or too many
_PLACE = {name: place for place, name in enumerate(SPANS)}
_WAIT, _COPY = _PLACE["data_wait"], _PLACE["copy"]


class Timer:
    """Adds up named spans, step by step. Not for nesting: each moment belongs to one span."""

    def __init__(self, device: str, *, enabled: bool = True) -> None:
        """enabled: False measures nothing, for what measuring itself costs."""
        self.enabled = enabled
        self._on_gpu = torch.device(device).type == "cuda"
        self._pool: list[torch.cuda.Event] = []
        self._pending: list[tuple[int, int, torch.cuda.Event, torch.cuda.Event, float]] = []
        self._steps: list[
            list[float]
        ] = []  # seconds of this epoch's steps, a column for each of SPANS
        self._current = [0.0] * len(SPANS)
        self.seconds = dict.fromkeys(SPANS, 0.0)  # of all epochs that have ended

    def span(self, name: str) -> AbstractContextManager[None]:
        """Time what is inside under `name`, one of SPANS. An exception ends the span unrecorded."""
        if not self.enabled:
            return nullcontext()
        return (_DeviceSpan if self._on_gpu else _HostSpan)(self, _PLACE[name])

    def end_step(self) -> None:
        """What follows belongs to the next step."""
        self._steps.append(self._current)
        self._current = [0.0] * len(SPANS)

    def end_epoch(self) -> dict[str, Any]:
        """`spans_s` of the epoch, and milliseconds at PERCENTILES of a whole step and of each span. Waits for the GPU."""
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
        """What a checkpoint in the middle of an epoch needs. Waits for the GPU."""
        return {"steps": self._read(), "seconds": dict(self.seconds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps, self.seconds = state["steps"].tolist(), dict(state["seconds"])

    def clear(self) -> None:
        """Forget everything: another training begins."""
        self._read()
        self._steps, self._current, self.seconds = [], [0.0] * len(SPANS), dict.fromkeys(SPANS, 0.0)

    def _read(self) -> torch.Tensor:
        """Seconds of this epoch's steps so far: float64 [steps, SPANS]."""
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
    """Events are used again: making one costs more than recording it."""

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
    """The `timing` of a result. `train_s` is the wall-clock time of the training loop alone; rates are images over it.

    gpu_fed: images per second end to end, as a share of those on one batch over and over. flops: of all of the training;
    peak_share: what that is, per second, of the device's peak.
    """
    spans = {name: spans_s.get(name, 0.0) for name in SPANS}
    img_per_s = num_images / train_s if train_s > 0 else 0.0
    fed = min(1.0, img_per_s / replay_img_per_s) if replay_img_per_s else None
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
        "verdict": verdict(waits, copies, peak_share),
    }


def verdict(waits: float, copies: float = 0.0, peak_share: float | None = None) -> str:
    """One sentence on the shares of time in which training waited for the loader, and for copies to the GPU, and on the share
    of the GPU's peak that it reached; and what to change."""
    if waits + copies < 0.05:
        busy = f"The loader keeps the model busy {100 * (1 - waits - copies):.0f} % of the time"
        if peak_share is None:
            return f"{busy}."
        if peak_share < LOW_PEAK_SHARE:
            return f"{busy}, at {100 * peak_share:.0f} % of the GPU's peak: try compile: auto, or a larger batch."
        return f"{busy}, at {100 * peak_share:.0f} % of the GPU's peak."
    if copies > waits:
        return (
            f"Training waits {100 * (waits + copies):.0f} % of the time, most of it for copies of batches to the GPU: see "
            f"that its PCIe link has its full width, and that other jobs leave it free."
        )
    return (
        f"Training waits for data {100 * waits:.0f} % of the time: give the loader more cores (fewer jobs side by side), "
        f"or write smaller or raw images."
    )
