"""What the GPU did meanwhile: utilisation, clock, memory and power, sampled by NVML where nvidia-ml-py is installed."""

import threading
from types import TracebackType
from typing import Any, Self

import torch

SAMPLE_EVERY_S = 1.0


class GpuMonitor:
    """A context; `summary()` behind it. On a CPU, or without NVML, it measures nothing."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._nvml: Any = None
        self._handle: Any = None
        self._samples: list[tuple[float, float, float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="harness-gpu-monitor")

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.init()  # which a device with a number does not bring about; its allocator refuses before
            torch.cuda.reset_peak_memory_stats(self._device)
            self._open()
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
        if self._thread.ident is not None:
            self._thread.join()
            if (
                not self._samples
            ):  # it was over before the first was due; NVML looks back some tenths of a second
                self._sample()
            self._nvml.nvmlShutdown()

    def busy(self) -> float | None:
        """Share of the time in which at least one kernel ran, of whatever process. None where nothing was measured."""
        return (
            sum(sample[0] for sample in self._samples) / len(self._samples)
            if self._samples
            else None
        )

    def max_memory_reserved(self) -> int:
        """Bytes: the most that torch has taken for itself."""
        return torch.cuda.max_memory_reserved(self._device)

    def summary(self) -> dict[str, Any] | None:
        """None on a CPU. Means over the samples; without NVML only what torch knows: its name and memory."""
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
            "utilisation": self.busy(),
            "sm_clock_mhz": sum(clock) / count,
            "sm_clock_min_mhz": min(clock),
            "memory_peak_bytes": max(memory),
            "power_w": sum(power) / count,
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
            print(f"NVML says nothing about {self._device}: {error}")

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S) and self._sample():
            pass

    def _sample(self) -> bool:
        """False: not every GPU tells all of it, and none does so while it is reset."""
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
    """As NVML spells it: numbers of GPUs differ between it and CUDA_VISIBLE_DEVICES."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
