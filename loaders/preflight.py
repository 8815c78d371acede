"""What could go wrong with a plan on this machine, said before it does: memory, pinned memory, cores."""

import os
from pathlib import Path

from loaders.plan import LoaderPlan
from writers.store import open_beton


def warnings(plan: LoaderPlan) -> list[str]:
    """One sentence for each thing that will make the plan slow or fail, with what to change. Empty: nothing."""
    found = []
    num_bytes, free = open_beton(plan.beton).path.stat().st_size, free_memory_bytes()
    if plan.backend == "ffcv" and plan.order == "random" and num_bytes > free:
        found.append(f"{plan.beton.name} has {num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free: in random "
                     "order every image is read from the disk anew. Use order: quasi_random, or write smaller images "
                     "(max_resolution: 400).")
    slots = slot_bytes(plan)
    if slots > free / 4:
        kind = "pinned memory" if plan.device != "cpu" else "memory"
        found.append(f"The loader's batches take {slots / 1e9:.1f} GB of {kind}, and "
                     f"{free / 1e9:.1f} GB are free. Lower batch_size or batches_ahead.")
    cores = len(os.sched_getaffinity(0))
    if plan.num_threads > cores:
        found.append(f"The loader has {plan.num_threads} threads for {cores} cores; more than the cores make it no faster.")
    return found


def slot_bytes(plan: LoaderPlan) -> int:
    """What the batch slots of the ffcv backend take."""
    return (plan.batches_ahead + 2) * plan.share * 3 * plan.resolution**2


def free_memory_bytes() -> int:
    """Memory that this process can still get: the machine's, or less where its container has a limit."""
    available = next(int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines()
                     if line.startswith("MemAvailable:"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        reclaimable = next(int(line.split()[1]) for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
                           if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):
        return available
    return available if limit == "max" else max(0, min(available, int(limit) - used + reclaimable))
