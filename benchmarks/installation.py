"""Report versions, GPU and kernels of the installation; fail if a part is missing or slow.

    python -m benchmarks.installation [--device cuda:0] [--json FILE]

A missing C kernel is a fault: the loaders then decode with numba, which changes every loading rate.
On a GPU, a missing part of torch.compile is a fault, because all steps then run eagerly. The exit
code is 0 without faults; otherwise it is 1, and one line is printed for each fault.
"""

import argparse
import importlib
import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

MODULES = (
    "torch",
    "torchvision",
    "numba",
    "pydantic",
    "ruamel.yaml",
    "loaders.ffcv_parts",
    "loaders",
)


def main() -> int:
    """Print the report as JSON; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = describe(options.device)
    text = json.dumps(report, indent=1) + "\n"
    if options.json is not None:
        options.json.write_text(text)
    print(text, end="")
    for fault in report["faults"]:
        print(f"FAULT: {fault}", file=sys.stderr)
    return int(bool(report["faults"]))


def describe(device: str) -> dict[str, Any]:
    """Return the environment, as benchmarks record it, the kernels in use, and all faults."""
    faults = [fault for module in MODULES if (fault := import_fault(module))]
    if faults:
        return {"faults": faults}
    import torch

    from harness.system import environment
    from loaders import kernel
    from writers.jpeg import native

    if device.startswith("cuda") and not torch.cuda.is_available():
        return {"faults": ["torch cannot use a GPU"]}
    compilers = compiler_faults() if device.startswith("cuda") else []
    return {
        "environment": environment.describe(device, environment.num_cores()),
        "decoding_kernel": kernel.best_kernel(),
        "writing_kernel": "none" if native.library() is None else "c",
        "faults": [*kernel_faults(), *compilers],
    }


def import_fault(module: str) -> str | None:
    """Return one line if the module cannot be imported, otherwise None."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return f"{module} cannot be imported: {error}"
    return None


def compiler_faults() -> list[str]:
    """Return one line for each part of torch.compile on a GPU that is missing.

    In each process, Triton compiles a C file that needs a C compiler and Python's headers.
    """
    faults = [fault] if (fault := import_fault("triton")) else []
    compiler = os.environ.get("CC")
    if not any(map(shutil.which, (compiler,) if compiler else ("gcc", "clang"))):
        faults.append("torch.compile finds no C compiler: install gcc, or set CC")
    folder = sysconfig.get_path("include", "posix_prefix")  # the scheme that Triton uses
    if not (Path(folder) / "Python.h").exists():
        faults.append(f"torch.compile finds no Python.h in {folder}: install python3-dev")
    return faults


def kernel_faults() -> list[str]:
    """Return one line for each C part that is not in use."""
    from loaders import kernel
    from writers.jpeg import native

    faults = []
    if kernel.best_kernel() != "c":
        faults.append(f"the loaders do not decode with the C kernel: {kernel.describe()}")
    if native.library() is None:
        faults.append(f"the writers' C part is not in use. {native.REINSTALL}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
