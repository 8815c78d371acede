"""Divide this machine into slots; each slot runs one stage at a time."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from harness.runner.fork_server import ForkedWorker, SpawnedWorker
from harness.runner.gpu_packing import ResourceKey
from harness.runner.launcher import LauncherSettings
from harness.system import environment
from writers.errors import UserError
from writers.text_names import counted

MIN_PROCESSES = 2  # allowed per stage on any machine, to try training with several processes


@dataclass
class Slot:
    """Share of this machine for one running stage.

    Attributes:
        index: number of the slot.
        num_threads: CPU threads of its stages.
        gpu: one or several GPUs, in the form of CUDA_VISIBLE_DEVICES; None for no GPU.
        cores: cores that only this slot uses; empty if its threads may run on any core.
        low_priority: runs stages that need no GPU, at low priority, next to GPU stages.
        process: the slot's worker; None until it is needed.
        running: folder of the running stage.
        resource_key: `gpu_packing.resource_key` of the stage that runs, or that ran last.
        unread: incomplete last line of the worker's output so far.
    """

    index: int
    num_threads: int
    gpu: str | None
    cores: tuple[int, ...] = ()
    low_priority: bool = False
    process: SpawnedWorker | ForkedWorker | None = None
    running: Path | None = None
    resource_key: ResourceKey = ()
    unread: bytes = field(default=b"", repr=False)


def make_slots(settings: LauncherSettings) -> list[Slot]:
    """Divide this machine into slots.

    If there are GPUs, each GPU, or each group of `gpus_per_stage` GPUs, has `jobs_per_gpu` slots.
    One more slot of low priority runs stages that need no GPU. If there are no GPUs, there is one
    slot per core on machines with up to 4 cores, and one slot per 4 cores otherwise, divided by
    `gpus_per_stage`. Each slot has as many threads as there are cores per slot. `num_jobs` and
    `num_threads` override these numbers. Several slots are pinned to separate cores, if there are
    enough cores and no CPU quota below their number.

    Raises:
        UserError: the settings request GPUs that do not exist, several MIG instances per stage,
            more parallel stages than the GPUs can run, or, without GPUs, more processes per stage
            than max(cores, MIN_PROCESSES).
    """
    gpus = [] if settings.device == "cpu" else _visible_gpus()
    if settings.device == "cuda" and not gpus:
        raise UserError(
            "--device cuda: nvidia-smi shows no GPU that this process may use.",
            "See harness doctor and CUDA_VISIBLE_DEVICES, or leave out --device cuda.",
        )
    if settings.jobs_per_gpu > 1 and not gpus:
        raise UserError(
            "--jobs-per-gpu has no effect: there is no GPU.",
            "Use --jobs N to run N stages at the same time.",
        )
    num_gpus = settings.gpus_per_stage
    if 0 < len(gpus) < num_gpus:
        raise UserError(
            f"--gpus-per-stage {num_gpus}: this machine has {len(gpus)} GPUs.",
            f"Use --gpus-per-stage {len(gpus)} or fewer.",
        )
    if num_gpus > 1 and any(gpu.startswith("MIG-") for gpu in gpus):
        raise UserError(
            f"--gpus-per-stage {num_gpus}: a process can use only one MIG instance, and all "
            "processes of a stage would use the same one.",
            "Leave out --gpus-per-stage: each instance then runs a stage of its own.",
        )
    gpus = [
        ",".join(gpus[first : first + num_gpus])
        for first in range(0, len(gpus) - num_gpus + 1, num_gpus)
    ]
    num_cores = environment.num_cores()
    max_processes = max(num_cores, MIN_PROCESSES)
    if not gpus and num_gpus > max_processes:
        raise UserError(
            f"--gpus-per-stage {num_gpus}: without a GPU it is a number of processes, and this "
            f"machine has {counted(num_cores, 'core')}.",
            f"Use --gpus-per-stage {max_processes} or fewer.",
        )
    num_gpu_slots = len(gpus) * settings.jobs_per_gpu
    if gpus and settings.num_jobs is not None and settings.num_jobs > num_gpu_slots:
        raise UserError(
            f"--jobs {settings.num_jobs}: the GPUs here run only {counted(num_gpu_slots, 'stage')} "
            "at the same time.",
            "Use --jobs-per-gpu N to let N stages share a GPU.",
        )
    num_cpu_slots = max(1, (num_cores if num_cores <= 4 else num_cores // 4) // num_gpus)
    num_slots = settings.num_jobs or num_gpu_slots or num_cpu_slots
    num_threads = settings.num_threads or max(1, num_cores // num_slots)
    cores = environment.cores()
    is_pinned = num_slots > 1 and num_slots * num_threads <= num_cores == len(cores)
    slots = [
        Slot(
            index,
            num_threads,
            gpus[index % len(gpus)] if gpus else None,
            tuple(cores[index * num_threads : (index + 1) * num_threads]) if is_pinned else (),
        )
        for index in range(num_slots)
    ]
    if gpus:
        slots.append(Slot(num_slots, max(1, num_cores // 4), None, low_priority=True))
    return slots


def _visible_gpus() -> list[str]:
    """Return the usable GPUs, as entries of CUDA_VISIBLE_DEVICES."""
    gpus, ids = environment.gpu_names(), environment.gpu_ids()
    if len(ids) == len(gpus):
        return ids
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[: len(gpus)] if visible else list(map(str, range(len(gpus))))
