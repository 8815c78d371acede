"""What the GPU check runs on: versions, the GPU, and which kernel decodes. Fails if a part is missing or slow.

    python -m benchmarks.installation [--device cuda:0] [--json FILE]

Without the C kernel the loaders decode with numba and every figure of loading is another one, so that is a failure.
Exit code 0 if nothing is wrong, else 1 with one line for each fault.
"""

import argparse
import importlib
import json
import sys
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = describe(options.device)
    text = json.dumps(found, indent=1) + "\n"
    if options.json is not None:
        options.json.write_text(text)
    print(text, end="")
    for fault in found["faults"]:
        print(f"FAULT: {fault}", file=sys.stderr)
    return int(bool(found["faults"]))


def describe(device: str) -> dict[str, Any]:
    """The environment as in every benchmark's record, the kernels, and what is wrong with them."""
    faults = [fault for module in MODULES if (fault := import_fault(module))]
    if faults:
        return {"faults": faults}
    import torch

    from harness.system import environment
    from loaders import kernel
    from writers.jpeg import native as writers_kernel

    if device.startswith("cuda") and not torch.cuda.is_available():
        return {"faults": ["torch cannot use a GPU"]}
    return {
        "environment": environment.describe(device, environment.num_cores()),
        "decoding_kernel": kernel.best_kernel(),
        "writing_kernel": "none" if writers_kernel.library() is None else "c",
        "faults": kernel_faults(),
    }


def import_fault(module: str) -> str | None:
    """One line if the module cannot be imported."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return f"{module} cannot be imported: {error}"
    return None


def kernel_faults() -> list[str]:
    """One line for each C part that is not in use."""
    from loaders import kernel
    from writers.jpeg import native as writers_kernel

    faults = []
    if kernel.best_kernel() != "c":
        faults.append(f"the loaders do not decode with the C kernel: {kernel.describe()}")
    if writers_kernel.library() is None:
        faults.append(f"the writers' C part is not in use. {writers_kernel.CURE}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
