"""Decide which stages may share a GPU.

Stages with an equal `resource_key` are assumed to need the same GPU memory and utilization. The
first of them runs alone on a GPU. Its result records both values, which decide whether later stages
with this key may join other stages on a GPU.

NVML's utilization is the fraction of time in which at least one kernel runs. Kernels of different
processes take turns, so other stages can only use the time that a stage leaves idle. Next to a
stage with utilization 0.95 they gain almost nothing. The idle times of stages do not fit together
exactly, so utilizations with the sum 1 do not fill a GPU. The fraction of time in which a GPU is
busy follows from the machine repairman model (one server, exponential times; computed, not
measured). With stages of utilization 0.3 it is 0.74 for three stages, 0.87 for four and 0.94 for
five. With utilization 0.5 it is 0.80 for two stages and 0.94 for three. Above a sum of 1.5 little
can be gained, and each stage takes longer.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.matrix.stage import Stage
from harness.runner import result

# GPU memory of a process in addition to torch's reserved memory: the CUDA context, and the kernels
# of cuDNN and cuBLAS.
CONTEXT_BYTES = 700e6
# Fraction of the GPU's memory that stages may fill. The remainder is a reserve for fragmentation
# and for differences between stages with an equal key.
USABLE_MEMORY = 0.92
MAX_UTILIZATION = 1.5  # sum over the stages on a GPU; see the module docstring
ResourceKey = tuple[Any, ...]


def resource_key(stage: Stage) -> ResourceKey:
    """Return a key that is equal for stages with about the same memory and GPU utilization.

    The key does not depend on seeds, learning rates, subsets and data.
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
        """Return the larger value of each field, ignoring None."""
        return GpuUse(
            _largest(self.memory_bytes, other.memory_bytes),
            _largest(self.gpu_utilization, other.gpu_utilization),
        )


@dataclass
class GpuSharing:
    """Measured GPU use per resource key.

    Results on disk, at most `result.MAX_SAMPLED` per kind of stage, are read when the first stage
    of the kind is checked.

    Attributes:
        runs: folder of stages.
        total_bytes: memory of the smallest GPU.
        by_utilization: False if utilization cannot be measured; then only memory limits sharing.
        known: resource key -> largest use measured so far.
        kinds_read: kinds of stages whose results on disk have been read.
    """

    runs: Path
    total_bytes: float
    by_utilization: bool = True
    known: dict[ResourceKey, GpuUse] = field(default_factory=dict)
    kinds_read: set[str] = field(default_factory=set)

    def fits(self, stage: ResourceKey, running: Sequence[ResourceKey]) -> bool:
        """Return True if the stage may run on a GPU together with the stages that run there.

        A stage whose use was never measured runs alone on a GPU.
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
        """Return True if the stage's use was measured, so that others may join it on its GPU."""
        return self._is_measured(self._use(stage))

    def _is_measured(self, use: GpuUse) -> bool:
        return use.memory_bytes is not None and (
            use.gpu_utilization is not None or not self.by_utilization
        )

    def learn(self, stage: ResourceKey, folder: Path) -> None:
        """Read the GPU use of a stage from its result, which has just been written."""
        with suppress(OSError, ValueError, AttributeError):
            self._update(stage, json.loads((folder / result.FILE_NAME).read_text()))

    def mark_oom(self, stage: ResourceKey) -> None:
        """Let stages with this key only run alone on a GPU, because one ran out of memory."""
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
                # Skip records of another schema; code that needs them raises.
                with suppress(KeyError, TypeError, AttributeError):
                    key = resource_key(Stage(kind, record["config"], axes=record["axes"]))
                    self._update(key, record)
        return self.known.get(stage, GpuUse())


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)
