"""Check that this machine can run the harness."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import folder_options
from harness.system.folders import Folders

if TYPE_CHECKING:
    from harness.cli.cpu_check import CaseResult

MIN_DISK_BYTES = 5e9
MIN_SHARED_MEMORY_BYTES = 1e9
# Time limit of a check. Most take seconds; the first compilation on a slow machine takes longer.
TIMEOUT_S = 120


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        what: Name of the check.
        good: False if there is a problem.
        found: Description of the current state.
        fix: How to fix the problem.
    """

    what: str
    good: bool
    found: str
    fix: str = ""


@click.command(short_help="Check versions, GPU, libraries and disk; run a short self-test.")
@folder_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of findings.")
def command(folders: Folders, as_json: bool) -> None:
    """Check that this machine can run the harness.

    Checks versions, libraries, GPU, disk, and runs a short self-test. Each problem is shown with
    its fix. The exit code is 1 if there is a problem.

    Example: harness doctor --json
    """
    findings = []
    for finding in _findings(folders):
        findings.append(finding)
        if not as_json:
            _show(finding)
    problems = [finding for finding in findings if not finding.good]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    elif problems:
        click.secho(f"{len(problems)} of {len(findings)} checks failed.", fg="red")
    else:
        click.secho("All checks passed.", fg="green")
    sys.exit(1 if problems else 0)


def _show(finding: Finding) -> None:
    from harness.cli import console

    click.secho(
        "ok    " if finding.good else "BAD   ", fg="green" if finding.good else "red", nl=False
    )
    head = f"      {finding.what:14} "
    click.echo(console.hanging(head, finding.found).removeprefix("      "))
    if not finding.good:
        click.secho(console.hanging("      ", finding.fix), fg="red")


def _findings(folders: Folders) -> Iterator[Finding]:
    yield _python()
    yield _packages()
    yield _import(
        "torch pair",
        "import torch, torchvision.transforms.v2, torchvision.ops as o; "
        "o.nms(torch.zeros(1, 4), torch.zeros(1), 0.5); "
        "print('torch', torch.__version__, 'and torchvision', torchvision.__version__, 'match')",
        "Install matching versions: pip install --upgrade --force-reinstall torch torchvision",
    )
    yield _import(
        "ffcv",
        "import ffcv, ffcv.libffcv; print('its compiled library loads')",
        "FFCV needs OpenCV 4 and libturbojpeg: "
        "apt-get install libopencv-dev libturbojpeg0-dev pkg-config, "
        "then pip install --force-reinstall --no-cache-dir ffcv",
    )
    yield _decoder()
    yield _gpu()
    yield _cpu_kernels()
    yield _disk("$HARNESS_DATA", folders.data)
    yield _disk("$HARNESS_RAW", folders.raw)
    yield _disk("$HARNESS_RUNS", folders.runs)
    yield _shared_memory()
    yield _self_test()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding(
        "python",
        good,
        f"{version} at {sys.executable}",
        "Use Python 3.11 to 3.13: make setup PYTHON=python3.12",
    )


def _packages() -> Finding:
    from harness.system import environment

    versions = environment.versions()
    missing = [package for package, version in versions.items() if version is None]
    return Finding(
        "packages",
        not missing,
        ", ".join(f"{package} {version or 'missing'}" for package, version in versions.items()),
        f"Missing: {', '.join(missing)}. In the repository: pip install -e .",
    )


def _import(what: str, code: str, fix: str) -> Finding:
    """Run a line of Python in a separate process; report a problem if it fails."""
    try:
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Finding(what, False, f"did not end within {TIMEOUT_S} s", fix)
    if process.returncode == 0:
        return Finding(what, True, process.stdout.strip())
    lines = process.stderr.strip().splitlines() or [f"failed with exit code {process.returncode}"]
    return Finding(what, False, lines[-1], fix)


def _decoder() -> Finding:
    """Name the decoder in use. A slow decoder passes; outdated C extensions are a problem."""
    from loaders import kernel, kernel_c
    from writers.jpeg import native

    outdated = [
        part.MODULE for part in (kernel_c, native) if native.is_outdated(part.MODULE, part.VERSION)
    ]
    if outdated:
        return Finding(
            "decoder",
            False,
            f"{' and '.join(outdated)}: not used, because built from other sources",
            native.REINSTALL,
        )
    return Finding("decoder", True, kernel.describe())


def _gpu() -> Finding:
    from harness.system import environment

    names = environment.gpu_names()
    if not names:
        return Finding("gpu", True, "none; everything runs on the CPU, in float32")
    return _import(
        "gpu",
        "import torch; assert torch.cuda.is_available(), 'torch.cuda.is_available() is False'; "
        "a = torch.ones(64, 64, device='cuda'); assert (a @ a)[0, 0].item() == 64; "
        "p = torch.cuda.get_device_properties(0); "
        "n, gib = torch.cuda.device_count(), p.total_memory / 2**30; "
        "print(f'{n} x {p.name}, {gib:.0f} GiB, CUDA {torch.version.cuda}')",
        f"The driver shows {', '.join(names)}, but torch cannot use it. "
        "Install a torch built for the driver's CUDA version.",
    )


def _cpu_kernels() -> Finding:
    """Compare gradients on the CPU with float64, in separate processes."""
    from harness.cli import cpu_check

    return _cpu_kernels_finding(list(cpu_check.check()))


def _cpu_kernels_finding(results: Sequence["CaseResult"]) -> Finding:
    """Summarize the results. A defect of torch that the harness works around passes."""
    faults = {
        implementation: [
            f"{result.case.description} ({result.fault})"
            for result in results
            if result.implementation == implementation and result.fault
        ]
        for implementation in ("harness", "torch")
    }
    fix = (
        "Train networks of at least 16 channels, in precision: float32, or on a GPU; "
        "or install another version of torch."
    )
    if faults["harness"]:
        return Finding(
            "cpu kernels", False, f"wrong gradients: {'; '.join(faults['harness'])}", fix
        )
    if faults["torch"]:
        return Finding(
            "cpu kernels",
            True,
            f"torch's own are wrong on this CPU for {'; '.join(faults['torch'])}; "
            "the harness computes these in another way, with right results",
        )
    return Finding(
        "cpu kernels",
        True,
        "gradients of narrow and of small convolutions are right, in float32 and bf16",
    )


def _disk(variable: str, folder: Path) -> Finding:
    """Check free space and permission to write, at the folder or its first existing parent."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            variable,
            False,
            f"{folder}: {existing} is not writable",
            f"Make it writable, or set {variable[1:]} to another folder.",
        )
    free = shutil.disk_usage(existing).free
    return Finding(
        variable,
        free >= MIN_DISK_BYTES,
        f"{folder}, {free / 1e9:,.0f} GB free",
        f"Free some space, or set {variable[1:]} to another folder.",
    )


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("shared memory", True, "no /dev/shm here; it is not needed on one GPU")
    free = shutil.disk_usage(folder).free
    return Finding(
        "shared memory",
        free >= MIN_SHARED_MEMORY_BYTES,
        f"{free / 1e9:,.1f} GB free in /dev/shm",
        "Several GPUs communicate through it. In a container use --shm-size=8g or --ipc=host.",
    )


def _self_test() -> Finding:
    """Run the self-test in a separate process, because native libraries can crash or hang."""
    with tempfile.TemporaryDirectory() as folder:
        return _import(
            "self-test",
            "import pathlib; from harness.cli.self_test import compare_backends; "
            f"print(compare_backends(pathlib.Path({folder!r})))",
            "For details run: make test",
        )
