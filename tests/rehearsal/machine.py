"""The GPUs of a fake machine. A test describes them in an environment variable.

This module uses only the standard library, so that the fakes of nvidia-smi and NVML need no torch.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

VARIABLE = "REHEARSAL_GPUS"  # a JSON list of the fields of Gpu


@dataclass(frozen=True)
class Gpu:
    """One card. If it has `mig`, it is divided into instances.

    Args:
        memory_mib: Memory of the whole card; None if the driver does not report it.
        utilization: Percent of the time in which a kernel runs; None if NVML does not support it.
        is_virtual: True if NVML does not support clock and power.
        mig: Memory of each MIG instance in MiB; empty if MIG is off.
    """

    name: str = "NVIDIA H100 80GB HBM3"
    memory_mib: int | None = 81559
    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    capability: tuple[int, int] = (9, 0)
    utilization: int | None = 40
    is_virtual: bool = False
    mig: tuple[int, ...] = ()

    def mig_uuid(self, index: int) -> str:
        """Return the UUID of a MIG instance."""
        return f"MIG-{self.uuid[4:-1]}{index}"


@dataclass(frozen=True)
class CudaDevice:
    """The device of one CUDA index: a card, or a MIG instance of one."""

    name: str
    memory_bytes: int
    uuid: str
    capability: tuple[int, int]


def cards(*changes: Mapping[str, object]) -> list[Gpu]:
    """Return one card for each mapping of changed fields, with UUIDs that differ."""
    return [
        Gpu(**{"uuid": f"GPU-{index:08x}-0000-0000-0000-000000000000", **fields})  # type: ignore[arg-type]
        for index, fields in enumerate(changes)
    ]


def describe(gpus: Sequence[Gpu]) -> str:
    """Return the value of VARIABLE for these cards."""
    return json.dumps([asdict(gpu) for gpu in gpus])


def installed() -> list[Gpu]:
    """Return the cards of the machine, in the driver's order."""
    found = json.loads(os.environ.get(VARIABLE, "[]"))
    return [
        Gpu(**{**fields, "capability": tuple(fields["capability"]), "mig": tuple(fields["mig"])})
        for fields in found
    ]


def visible() -> list[CudaDevice]:
    """Return the devices that CUDA enumerates, according to CUDA_VISIBLE_DEVICES.

    The list ends at the first entry that does not name a device (CUDA C++ Programming Guide, CUDA
    environment variables). A process sees only one MIG instance. Numbers begin with the fastest
    card, for which the one with the largest memory stands here, unless CUDA_DEVICE_ORDER is set.
    """
    gpus = installed()
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        gpus.sort(key=lambda gpu: -(gpu.memory_mib or 0))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        devices = [_device(gpu) for gpu in gpus]
        return devices[:1] if any(gpu.mig for gpu in gpus) else devices
    found: list[CudaDevice] = []
    for entry in chosen.split(","):
        device = _named(entry.strip(), gpus)
        if device is None:
            break
        found.append(device)
    return found


def _named(entry: str, gpus: Sequence[Gpu]) -> CudaDevice | None:
    if entry.isdecimal():
        return _device(gpus[int(entry)]) if int(entry) < len(gpus) else None
    for gpu in gpus:
        if entry.startswith("GPU-") and gpu.uuid.startswith(entry):
            return _device(gpu)
        for index in range(len(gpu.mig)):
            if entry.startswith("MIG-") and gpu.mig_uuid(index).startswith(entry):
                return _device(gpu, index)
    return None


def _device(gpu: Gpu, instance: int = 0) -> CudaDevice:
    if gpu.mig:
        memory, uuid = gpu.mig[instance], gpu.mig_uuid(instance)
        name = f"{gpu.name} MIG {memory}MiB"
    else:
        memory, uuid, name = gpu.memory_mib or 16384, gpu.uuid, gpu.name
    return CudaDevice(name, memory * 2**20, uuid, gpu.capability)
