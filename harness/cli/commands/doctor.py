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
    from harness.cli.cpu_check import Answer

LOW_DISK_BYTES = 5e9
LOW_SHARED_MEMORY_BYTES = 1e9
TIMEOUT_S = 120  # seconds on a healthy machine; the first compilation on a slow one takes longer


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `cure` says how to put a problem right."""

    what: str
    good: bool
    found: str
    cure: str = ""


@click.command(short_help="Check versions, GPU, libraries and disk; run a short self-test.")
@folder_options
@click.option("--json", "as_json", is_flag=True, help="For programs: a list of findings.")
def command(folders: Folders, as_json: bool) -> None:
    """Check that this machine can run the harness: versions, libraries, GPU, disk, and a short self-test.

    Each problem comes with its cure. Exit code 1 where there is one.
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
        click.secho(f"{len(problems)} of {len(findings)} need attention.", fg="red")
    else:
        click.secho("All good.", fg="green")
    sys.exit(1 if problems else 0)


def _show(finding: Finding) -> None:
    click.secho(
        "ok    " if finding.good else "BAD   ", fg="green" if finding.good else "red", nl=False
    )
    click.echo(f"{finding.what:14} {finding.found}")
    if not finding.good:
        click.secho(f"      {finding.cure}", fg="red")


def _findings(folders: Folders) -> Iterator[Finding]:
    yield _python()
    yield _packages()
    yield _import(
        "torch pair",
        "import torch, torchvision.transforms.v2, torchvision.ops as o; "
        "o.nms(torch.zeros(1, 4), torch.zeros(1), 0.5); "
        "print('torch', torch.__version__, 'and torchvision', __import__('torchvision').__version__, 'fit')",
        "torch and torchvision come in pairs: pip install --upgrade --force-reinstall torch torchvision",
    )
    yield _import(
        "ffcv",
        "import ffcv, ffcv.libffcv; print('its compiled library loads')",
        "FFCV needs OpenCV 4 and libturbojpeg: apt-get install libopencv-dev libturbojpeg0-dev pkg-config, "
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
        "Python 3.11 to 3.13 is needed: make setup PYTHON=python3.12",
    )


def _packages() -> Finding:
    from harness.system import environment

    found = environment.versions()
    missing = [package for package, version in found.items() if version is None]
    return Finding(
        "packages",
        not missing,
        ", ".join(f"{package} {version or 'missing'}" for package, version in found.items()),
        f"Missing: {', '.join(missing)}. In the repository: pip install -e .",
    )


def _import(what: str, code: str, cure: str) -> Finding:
    """Whether a line of Python runs in a process of its own."""
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Finding(what, False, f"did not answer within {TIMEOUT_S} s", cure)
    if ended.returncode == 0:
        return Finding(what, True, ended.stdout.strip())
    said = ended.stderr.strip().splitlines() or [f"ended with exit code {ended.returncode}"]
    return Finding(what, False, said[-1], cure)


def _decoder() -> Finding:
    """What decodes images. That one of them is slower is no problem; C parts that are not the Python code's are one."""
    from loaders import kernel, kernel_c
    from writers.jpeg import native as writers_kernel

    outdated = [
        part.MODULE
        for part in (kernel_c, writers_kernel)
        if writers_kernel.is_outdated(part.MODULE, part.VERSION)
    ]
    if outdated:
        return Finding(
            "decoder",
            False,
            f"{' and '.join(outdated)}: built of other sources than the Python code, and not used",
            writers_kernel.CURE,
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
        f"The driver shows {', '.join(names)}, but torch cannot use it: "
        "install a torch built for the driver's CUDA.",
    )


def _cpu_kernels() -> Finding:
    """Compare gradients on the CPU with float64, in processes of their own."""
    from harness.cli import cpu_check

    return _about_cpu_kernels(list(cpu_check.check()))


def _about_cpu_kernels(answers: Sequence["Answer"]) -> Finding:
    """A defect that the harness avoids is named, but is no problem."""
    faults = {
        way: [f"{one.case.words} ({one.fault})" for one in answers if one.way == way and one.fault]
        for way in ("harness", "torch")
    }
    cure = (
        "Train networks of at least 16 channels, in precision: float32, or on a GPU; "
        "or install another version of torch."
    )
    if faults["harness"]:
        return Finding(
            "cpu kernels", False, f"wrong gradients: {'; '.join(faults['harness'])}", cure
        )
    if faults["torch"]:
        return Finding(
            "cpu kernels",
            True,
            f"torch's own are wrong on this CPU for {'; '.join(faults['torch'])}; "
            "the harness computes these another way, which is right",
        )
    return Finding(
        "cpu kernels",
        True,
        "gradients of narrow and of small convolutions are right, float32 and bf16",
    )


def _disk(variable: str, folder: Path) -> Finding:
    """Free space and the right to write, at the folder or at what exists above it; makes nothing."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            variable,
            False,
            f"{folder}: {existing} cannot be written",
            f"Make it writable, or set {variable[1:]} to another folder.",
        )
    free = shutil.disk_usage(existing).free
    return Finding(
        variable,
        free >= LOW_DISK_BYTES,
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
        free >= LOW_SHARED_MEMORY_BYTES,
        f"{free / 1e9:,.1f} GB free in /dev/shm",
        "Several GPUs talk through it. In a container: docker run --shm-size=8g, or --ipc=host.",
    )


def _self_test() -> Finding:
    """In a process of its own, as the imports above: native libraries can crash or hang."""
    with tempfile.TemporaryDirectory() as folder:
        return _import(
            "self-test",
            "import pathlib; from harness.cli.self_test import compare_backends; "
            f"print(compare_backends(pathlib.Path({folder!r})))",
            "The whole story: make test",
        )
