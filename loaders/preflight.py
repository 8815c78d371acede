"""Warn about limits of this machine that a plan will hit: memory, shared memory, cores."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from loaders.plan import LoaderPlan
from writers.beton.store import open_beton

LOW_SHARED_MEMORY_BYTES = 1e9


def warnings(plan: LoaderPlan) -> list[str]:
    """Return a sentence, with a remedy, for each problem that makes the plan slow or fail."""
    found = []
    num_bytes, free = open_beton(plan.beton).path.stat().st_size, free_memory_bytes()
    if plan.backend == "ffcv" and plan.has_scattered_order and num_bytes > free:
        found.append(
            f"{plan.beton.name} has {num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory "
            "are free: in random "
            "order every image is read from the disk again. Use order: quasi_random (in a recipe "
            "under pretrain), or "
            "write smaller images (max_resolution: 400)."
        )
    slots = slot_bytes(plan)
    if slots > free / 4:
        kind = "pinned memory" if plan.device != "cpu" else "memory"
        found.append(
            f"The loader's batches take {slots / 1e9:.1f} GB of {kind}, and "
            f"{free / 1e9:.1f} GB are free. Lower batch_size or batches_ahead."
        )
    if plan.world_size > 1 and (shared := shared_memory_bytes()) < LOW_SHARED_MEMORY_BYTES:
        found.append(
            f"/dev/shm has {shared / 1e9:.1f} GB free; the ranks communicate through it. In a "
            "container: --shm-size=8g, "
            "or --ipc=host."
        )
    cores = len(os.sched_getaffinity(0))
    if plan.num_threads > cores:
        found.append(
            f"The loader has {plan.num_threads} threads for {cores} cores; more than the cores "
            "make it no faster."
        )
    return found


def slot_bytes(plan: LoaderPlan) -> int:
    """Return the bytes of all batch slots of the ffcv backend."""
    value_bytes = 1 if plan.dtype == "uint8" else 2
    return (
        (plan.batches_ahead + 2)
        * plan.local_batch_size
        * plan.crops_per_image
        * 3
        * plan.resolution**2
        * value_bytes
    )


def shared_memory_bytes() -> int:
    """Return the free bytes in /dev/shm; 2^63 if it does not exist, as nothing can use it then."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free if folder.is_dir() else 2**63


def free_memory_bytes() -> int:
    """Return the bytes that this process can still allocate; a container's limit counts."""
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    return max(0, min([available, *(limit - used for limit, used in _container_memory())]))


def _container_memory() -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of each memory limit of this container.

    Reclaimable file cache does not count as used. Yields nothing if there is no limit.
    """
    for folder, limit_file, used_file, cached in (
        # cgroup version 2
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
        (
            Path("/sys/fs/cgroup/memory"),
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        try:
            limit, used = (
                (folder / limit_file).read_text().strip(),
                int((folder / used_file).read_text()),
            )
            counts = dict(
                line.split() for line in (folder / "memory.stat").read_text().splitlines()
            )
        except (OSError, ValueError):
            continue
        if limit != "max":
            yield int(limit), used - int(counts.get(cached, 0))
