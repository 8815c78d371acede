"""Sample GPU utilization, clock, memory and power with NVML, if nvidia-ml-py is installed."""

import threading
import time
from statistics import fmean
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
        # Utilization, SM clock, memory and power; the last three are None if not reported.
        self._samples: list[tuple[float, float | None, float | None, float | None]] = []
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

        The summary has only the GPU's name, torch's peak memory, and what the GPU reports.
        """
        if self._device.type != "cuda":
            return None
        known = {
            "name": torch.cuda.get_device_name(self._device),
            "allocated_peak_bytes": torch.cuda.max_memory_allocated(self._device),
        }
        if not self._samples:
            return known
        _, *columns = zip(*self._samples, strict=True)
        clock, memory, power = (
            [value for value in column if value is not None] for column in columns
        )
        known |= {"utilisation": self.mean_utilization(), "num_samples": len(self._samples)}
        if clock:
            known |= {"sm_clock_mhz": fmean(clock), "sm_clock_min_mhz": min(clock)}
        if memory:
            known["memory_peak_bytes"] = max(memory)
        if power:
            # The energy includes that of other processes on this GPU.
            energy_wh = fmean(power) * self._seconds / 3600
            known |= {"power_w": fmean(power), "energy_wh": energy_wh}
        return known

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
        """Take a sample. Return False if the GPU reports no utilization, as during a reset."""
        nvml, handle = self._nvml, self._handle

        def read(name: str, *arguments: Any) -> Any:
            try:
                return getattr(nvml, name)(handle, *arguments)
            except nvml.NVMLError:
                return None

        utilization = read("nvmlDeviceGetUtilizationRates")
        if utilization is None:
            return False
        # A virtual GPU may report utilization, and no clock or power.
        memory, power = read("nvmlDeviceGetMemoryInfo"), read("nvmlDeviceGetPowerUsage")
        self._samples.append(
            (
                utilization.gpu / 100,
                read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
                None if memory is None else memory.used,
                None if power is None else power / 1000,
            )
        )
        return True


def _uuid(device: torch.device) -> str:
    """Return the UUID in NVML's form. NVML's GPU indices ignore CUDA_VISIBLE_DEVICES."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
