"""A fake of nvidia-ml-py for the machine that REHEARSAL_GPUS describes.

As in NVML, device numbers do not depend on CUDA_VISIBLE_DEVICES, and a card in MIG mode reports no
utilization (NVML API reference, nvmlDeviceGetUtilizationRates).
"""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.append(str(Path(__file__).resolve().parents[3]))
from tests.rehearsal.machine import Gpu, installed

NVML_CLOCK_SM = 1
_opened = 0


class NVMLError(Exception):
    """Error with the text of NVML's error."""


def nvmlInit() -> None:
    global _opened
    if not installed():
        raise NVMLError("Driver Not Loaded")
    _opened += 1


def nvmlShutdown() -> None:
    global _opened
    _check()
    _opened -= 1


def nvmlDeviceGetCount() -> int:
    _check()
    return len(installed())


def nvmlDeviceGetHandleByIndex(index: int) -> Gpu:
    _check()
    if not 0 <= index < len(installed()):
        raise NVMLError("Invalid Argument")
    return installed()[index]


def nvmlDeviceGetHandleByUUID(uuid: str | bytes) -> Gpu:
    _check()
    text = uuid.decode() if isinstance(uuid, bytes) else uuid
    for gpu in installed():
        if text == gpu.uuid or text in [gpu.mig_uuid(index) for index in range(len(gpu.mig))]:
            return gpu
    raise NVMLError("Not Found")


def nvmlDeviceGetUUID(handle: Gpu) -> str:
    return handle.uuid


def nvmlDeviceGetName(handle: Gpu) -> str:
    return handle.name


def nvmlDeviceGetUtilizationRates(handle: Gpu) -> SimpleNamespace:
    _check()
    if handle.utilization is None or handle.mig:
        raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=handle.utilization, memory=0)


def nvmlDeviceGetClockInfo(handle: Gpu, kind: int) -> int:
    _check()
    _check_physical(handle)
    return 1755


def nvmlDeviceGetMemoryInfo(handle: Gpu) -> SimpleNamespace:
    _check()
    if handle.memory_mib is None:
        raise NVMLError("Not Supported")
    return SimpleNamespace(total=handle.memory_mib * 2**20, used=2**30, free=0)


def nvmlDeviceGetPowerUsage(handle: Gpu) -> int:
    _check()
    _check_physical(handle)
    return 350_000


def _check_physical(handle: Gpu) -> None:
    if handle.is_virtual:
        raise NVMLError("Not Supported")


def _check() -> None:
    if not _opened:
        raise NVMLError("Uninitialized")
