"""Decide which stages may share a GPU.

The first stage of each kind runs alone on its GPU. Its peak memory and GPU utilization, read from
its result, bound what runs next to it.

NVML's utilization is the fraction of time in which at least one kernel runs. Kernels of different
processes take turns, so other stages can only use the time that a stage leaves idle: next to a
stage with utilization 0.95 they gain almost nothing. Idle gaps do not align, so a sum of 1 does
not fill a GPU. By the machine repairman model (one server, exponential times; computed, not
measured), stages with utilization 0.3 keep a GPU busy for 0.74 of the time if three of them run,
0.87 for four, 0.94 for five; with utilization 0.5 it is 0.80 for two and 0.94 for three. Above a
sum of 1.5 little is left to gain, and each stage takes longer.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.matrix.stage import Stage
from harness.runner import result

# Memory of a process on a GPU in addition to torch's own: the CUDA context and the kernels of
# cuDNN and cuBLAS.
CONTEXT_BYTES = 700e6
# Fraction of the GPU's memory to fill. The rest covers fragmentation and differences between
# stages of a kind.
USABLE_MEMORY = 0.92
MAX_UTILIZATION = 1.5  # sum over the stages on a GPU; see the module docstring
ResourceKey = tuple[Any, ...]


def resource_key(stage: Stage) -> ResourceKey:
    """Return a key that is equal for stages with about the same memory and GPU utilization.

    Seeds, learning rates, subsets and data do not matter for either.
    """
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


def has_utilization() -> bool:
    """Return True if NVML reports GPU utilization. Requires nvidia-ml-py; MIG slices have none."""
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
class GpuUse:
    """GPU resources that a stage uses. None means not measured yet.

    Attributes:
        memory_bytes: peak memory, including the CUDA context.
        gpu_utilization: fraction of the stage's time in which a kernel ran, in [0, 1].
    """

    memory_bytes: float | None = None
    gpu_utilization: float | None = None

    def max(self, other: "GpuUse") -> "GpuUse":
        """Return the elementwise maximum; a measured value wins over None."""
        return GpuUse(
            _largest(self.memory_bytes, other.memory_bytes),
            _largest(self.gpu_utilization, other.gpu_utilization),
        )


@dataclass
class GpuSharing:
    """Measured GPU use per kind of stage. Results on disk are read when a kind is first needed.

    Attributes:
        runs: folder of stages.
        total_bytes: memory of the smallest GPU.
        by_utilization: False if utilization cannot be measured; then only memory limits sharing.
        known: largest use measured so far.
        kinds_read: kinds whose results on disk have been read.
    """

    runs: Path
    total_bytes: float
    by_utilization: bool = True
    known: dict[ResourceKey, GpuUse] = field(default_factory=dict)
    kinds_read: set[str] = field(default_factory=set)

    def fits(self, stage: ResourceKey, running: Sequence[ResourceKey]) -> bool:
        """Return True if the stage may join those running on a GPU.

        A stage that was never measured gets a GPU of its own.
        """
        if not running:
            return True
        uses = [self._use(key) for key in (stage, *running)]
        return (
            all(map(self._is_measured, uses))
            and sum(use.memory_bytes or 0.0 for use in uses) <= USABLE_MEMORY * self.total_bytes
            and sum(use.gpu_utilization or 0.0 for use in uses) <= MAX_UTILIZATION
        )

    def is_known(self, stage: ResourceKey) -> bool:
        """Return True if others may join the stage on its GPU, because its use was measured."""
        return self._is_measured(self._use(stage))

    def _is_measured(self, use: GpuUse) -> bool:
        return use.memory_bytes is not None and (
            use.gpu_utilization is not None or not self.by_utilization
        )

    def learn(self, stage: ResourceKey, folder: Path) -> None:
        """Read the GPU use of a stage that has just finished from its result."""
        with suppress(OSError, ValueError, AttributeError):
            self._update(stage, json.loads((folder / result.FILE_NAME).read_text()))

    def mark_oom(self, stage: ResourceKey) -> None:
        """Give stages like this one a GPU of their own, after one ran out of memory."""
        self.known[stage] = self.known.get(stage, GpuUse()).max(GpuUse(self.total_bytes))

    def _update(self, stage: ResourceKey, record: dict[str, Any]) -> None:
        memory = record.get("gpu_memory_bytes")
        measured = GpuUse(
            None if memory is None else memory + CONTEXT_BYTES, record.get("gpu_busy")
        )
        self.known[stage] = self.known.get(stage, GpuUse()).max(measured)

    def _use(self, stage: ResourceKey) -> GpuUse:
        kind = stage[0]
        if kind not in self.kinds_read:
            self.kinds_read.add(kind)
            for _, record in result.sample(self.runs, kind):
                # Skips records of another schema; their consumer raises.
                with suppress(KeyError, TypeError, AttributeError):
                    key = resource_key(Stage(kind, record["config"], axes=record["axes"]))
                    self._update(key, record)
        return self.known.get(stage, GpuUse())


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)
