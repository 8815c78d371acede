"""Environment of a result: versions, hardware, and torch flags that affect precision."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.system.nvidia_smi import mebibytes, usable_gpus

PACKAGES = ("harness", "torch", "torchvision", "numpy", "numba", "ffcv", "pillow")


def describe(device: str, num_threads: int) -> dict[str, Any]:
    """Return a JSON object for `Result.environment`. Reads torch only if it is imported."""
    return {
        **describe_process(),
        "num_threads": num_threads,
        "device": device,
        **_torch_state(device),
    }


@functools.cache
def describe_process() -> dict[str, Any]:
    """Return the part of `describe` that does not change while the process runs.

    Cached, because a long-lived worker runs the code that it loaded, even if files change later.
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions(),
        "git_revision": git_revision(),
        "cpu": cpu_model(),
        "num_cores": num_cores(),
    }


def versions() -> dict[str, str | None]:
    """Return package -> installed version, None if missing. Imports no package."""
    installed: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = None
    return installed


def git_revision() -> str | None:
    """Return the commit of the running code; None outside a repository.

    `+changes` is appended if files differ from the commit.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parents[2])]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def cpu_model() -> str:
    """Return the name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> list[int]:
    """Return the indices of the CPU cores that this process may run on (its affinity)."""
    return (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )


def num_cores() -> int:
    """Return how many cores this process may use, by its affinity and its container's CPU quota."""
    allowed = len(cores())
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return allowed if quota == "max" else max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return allowed


def gpu_names() -> list[str]:
    """Return the names of the usable GPUs, from nvidia-smi: importing torch takes seconds."""
    return [value for _, value in usable_gpus("name")]


def gpu_ids() -> list[str]:
    """Return an entry of CUDA_VISIBLE_DEVICES for each usable GPU or MIG instance."""
    return [identifier for identifier, _ in usable_gpus("name")]


def gpu_memory_bytes() -> list[int]:
    """Return the memory of each usable GPU in bytes; 0 if the driver does not report it."""
    return [mebibytes(text) * 2**20 for _, text in usable_gpus("memory.total")]


def _torch_state(device: str) -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "backends"):
        return {"gpu": None}
    flags = {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "num_threads": torch.get_num_threads(),
    }
    if not device.startswith("cuda"):
        return {"gpu": None, "torch_flags": flags}
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "torch_flags": flags,
    }
