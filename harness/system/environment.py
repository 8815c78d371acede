"""Environment of a result: versions, hardware, and torch flags that affect precision."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    """Return the part that does not change while the process runs.

    Cached, because a long-lived worker runs the code it loaded, even if the files change.
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
    """Return the numbers of the cores in this process's affinity."""
    return (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )


def num_cores() -> int:
    """Return the number of cores this process may use, by affinity and container quota."""
    allowed = len(cores())
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return allowed if quota == "max" else max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return allowed


def gpu_names() -> list[str]:
    """Return the names of the usable GPUs, from nvidia-smi: torch takes seconds to import."""
    return _query_gpus("name")


def gpu_memory_bytes() -> list[int]:
    """Return the memory of each usable GPU in bytes; 0 if the driver does not report it."""
    return [_mebibytes(text) * 2**20 for text in _query_gpus("memory.total")]


def _mebibytes(text: str) -> int:
    """Parse nvidia-smi's number; it prints [N/A] for GPUs that share the host's memory."""
    try:
        return round(float(text))
    except ValueError:
        return 0


def _query_gpus(field: str) -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    try:
        listing = subprocess.run(
            ["nvidia-smi", f"--query-gpu=index,uuid,{field}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [
        [cell.strip() for cell in line.split(",", 2)]
        for line in listing.stdout.splitlines()
        if line.strip()
    ]
    if visible is None:
        return [value for _, _, value in rows]
    # CUDA_VISIBLE_DEVICES holds indices or UUIDs, in the order in which CUDA numbers the GPUs.
    return [
        value
        for name in (entry.strip() for entry in visible.split(","))
        for index, uuid, value in rows
        if name == index or (name.startswith("GPU-") and uuid.startswith(name))
    ]


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
