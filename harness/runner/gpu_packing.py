"""Which stages may share a GPU: by the memory and the time of it that the first of each kind was measured to take, alone there.

NVML's utilisation is the share of time in which at least one kernel runs. Kernels of different processes take turns, so what a
stage leaves of that time is all that others can win: beside one that is busy for 0.95 of it they gain next to nothing. Gaps do
not wait for each other's kernels, though, so a sum of 1 does not fill a GPU. By the machine repairman model (one server,
exponential times; computed, not measured) stages of 0.3 keep it busy for 0.74 of the time where there are three, 0.87 four,
0.94 five; those of 0.5 for 0.80 where there are two, 0.94 three. Behind a sum of 1.5 little is left to win, and each stage
ends later.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.matrix.stage import Stage
from harness.runner import result

CONTEXT_BYTES = 700e6  # of a process on a GPU beside torch's own memory: the context, cuDNN's and cuBLAS's kernels
USABLE_MEMORY = (
    0.92  # as a share of the GPU's: fragments, and what differs between stages of a kind
)
MOST_BUSY = 1.5  # the sum of the stages' shares of time; see above
Likeness = tuple[Any, ...]


def likeness(stage: Stage) -> Likeness:
    """Stages of which this is equal take about as much of a GPU: whatever their seed, rates, subset and data."""
    settings = {**stage.config, **stage.config.get("settings", {})}
    return (
        stage.kind,
        stage.axes.get("arch"),
        stage.axes.get("model"),
        stage.axes.get("method"),
        settings.get("resolution"),
        settings.get("batch_size"),
        bool(stage.axes.get("eps")),
    )


def tells_time() -> bool:
    """Whether NVML says how busy the GPUs are: nvidia-ml-py must be there, and of a GPU's slices (MIG) it says nothing."""
    try:
        import pynvml
    except ImportError:
        return False
    try:
        pynvml.nvmlInit()
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                pynvml.nvmlDeviceGetUtilizationRates(pynvml.nvmlDeviceGetHandleByIndex(index))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return False
    return True


@dataclass(frozen=True)
class Use:
    """What a stage takes of its GPU; None: not known yet."""

    memory_bytes: float | None = None
    busy: float | None = None  # share of time, in [0, 1]

    def or_more(self, other: "Use") -> "Use":
        return Use(_largest(self.memory_bytes, other.memory_bytes), _largest(self.busy, other.busy))


@dataclass
class GpuSharing:
    """What is known of the stages in `runs`; results on disk are read when a kind is first asked about."""

    runs: Path
    total_bytes: float  # of the smallest GPU
    by_time: bool = True  # False: it cannot be measured, and memory alone decides
    known: dict[Likeness, Use] = field(default_factory=dict)
    kinds_read: set[str] = field(default_factory=set)

    def fit(self, stage: Likeness, running: Sequence[Likeness]) -> bool:
        """Whether the stage may join those that run on a GPU. One of which nothing is known has the GPU to itself."""
        if not running:
            return True
        uses = [self._use(one) for one in (stage, *running)]
        return (
            all(map(self._is_enough, uses))
            and sum(use.memory_bytes or 0.0 for use in uses) <= USABLE_MEMORY * self.total_bytes
            and sum(use.busy or 0.0 for use in uses) <= MOST_BUSY
        )

    def is_known(self, stage: Likeness) -> bool:
        """Whether others may join it. One that is not known, and starts alone on its GPU, stays alone there."""
        return self._is_enough(self._use(stage))

    def _is_enough(self, use: Use) -> bool:
        return use.memory_bytes is not None and (use.busy is not None or not self.by_time)

    def learn(self, stage: Likeness, folder: Path) -> None:
        """From the result of a stage that has just ended."""
        with suppress(OSError, ValueError, AttributeError):
            self._keep(stage, json.loads((folder / result.FILE_NAME).read_text()))

    def _keep(self, stage: Likeness, record: dict[str, Any]) -> None:
        memory, busy = record.get("gpu_memory_bytes"), record.get("gpu_busy")
        found = Use(None if memory is None else memory + CONTEXT_BYTES, busy)
        self.known[stage] = self.known.get(stage, Use()).or_more(found)

    def was_too_much(self, stage: Likeness) -> None:
        """It ran out of memory: from now on it has a GPU to itself."""
        self.known[stage] = self.known.get(stage, Use()).or_more(Use(self.total_bytes))

    def _use(self, stage: Likeness) -> Use:
        kind = stage[0]
        if kind not in self.kinds_read:
            self.kinds_read.add(kind)
            for _, record in result.sample(self.runs, kind):
                with suppress(
                    KeyError, TypeError, AttributeError
                ):  # of another schema: whoever needs it says so
                    self._keep(likeness(Stage(kind, record["config"], axes=record["axes"])), record)
        return self.known.get(stage, Use())


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)
