"""Sample GPU utilization, clock, memory and power with NVML, if nvidia-ml-py is installed."""

import threading
import time
from types import TracebackType
from typing import Any, Self

import torch

SAMPLE_EVERY_S = 1.0


class GpuMonitor:
    """Context manager that samples a GPU. Call `summary()` after the block.

    Takes no samples on a CPU or without NVML.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._nvml: Any = None
        self._handle: Any = None
        self._samples: list[tuple[float, float, float, float]] = []
        self._started_at = self._seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="harness-gpu-monitor")

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            # Resetting the statistics of a device such as "cuda:1" fails before CUDA is
            # initialized.
            torch.cuda.init()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._open()
        self._started_at = time.monotonic()
        if self._handle is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._seconds = time.monotonic() - self._started_at
        if self._thread.ident is not None:
            self._thread.join()
            # Without samples, the block was shorter than SAMPLE_EVERY_S, or NVML failed. A sample
            # taken now still describes it: NVML averages over some tenths of a second.
            if not self._samples:
                self._sample()
            self._nvml.nvmlShutdown()

    def mean_utilization(self) -> float | None:
        """Return the fraction of time in which a kernel of any process ran; None if unknown."""
        return (
            sum(sample[0] for sample in self._samples) / len(self._samples)
            if self._samples
            else None
        )

    def max_memory_reserved(self) -> int:
        """Return the peak of the memory that torch has reserved, in bytes."""
        return torch.cuda.max_memory_reserved(self._device)

    def summary(self) -> dict[str, Any] | None:
        """Return means and extremes of the samples, or None on a CPU.

        Without samples, the summary has only the GPU's name and torch's peak memory.
        """
        if self._device.type != "cuda":
            return None
        known = {
            "name": torch.cuda.get_device_name(self._device),
            "allocated_peak_bytes": torch.cuda.max_memory_allocated(self._device),
        }
        if not self._samples:
            return known
        _, clock, memory, power = zip(*self._samples, strict=True)
        count = len(self._samples)
        return {
            **known,
            "utilisation": self.mean_utilization(),
            "sm_clock_mhz": sum(clock) / count,
            "sm_clock_min_mhz": min(clock),
            "memory_peak_bytes": max(memory),
            "power_w": sum(power) / count,
            # The energy includes that of other processes on this GPU.
            "energy_wh": sum(power) / count * self._seconds / 3600,
            "num_samples": count,
        }

    def _open(self) -> None:
        try:
            import pynvml
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(self._device))
            self._nvml = pynvml
        except pynvml.NVMLError as error:
            print(f"NVML cannot read {self._device}: {error}")

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S) and self._sample():
            pass

    def _sample(self) -> bool:
        """Take a sample. Return False if the GPU does not report values, as during a reset."""
        nvml, handle = self._nvml, self._handle
        try:
            self._samples.append(
                (
                    nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
                    nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
                    nvml.nvmlDeviceGetMemoryInfo(handle).used,
                    nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
                )
            )
        except nvml.NVMLError:
            return False
        return True


def _uuid(device: torch.device) -> str:
    """Return the UUID in NVML's form. NVML's GPU indices ignore CUDA_VISIBLE_DEVICES."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
