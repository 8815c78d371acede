"""All that needs a GPU, in one call of under 8 minutes: the GPU tests of the suite, and the benchmarks of training and loading.

    python benchmarks/gpu_check.py [--out benchmarks/results] [--tiny]        (make gpu-check)

Needs a Python with torch, torchvision and numba; wheels in `.whl/` are installed first, without a network, so that FFCV and
the rest need not be there. The images are made-up tiles (benchmarks/photo_tiles.py --synthetic) unless --corpus names real
ones. Each part has a time of its own; one that fails or runs out of it is told in the summary, and the next begins. Records
go to OUT/<bench>_<gpu>_<date>.json. --tiny runs what it can on a CPU, to check this script: its records are no measurements.
"""

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".whl"
TOTAL_S = 460.0


@dataclass(frozen=True)
class Part:
    """One thing to run: its name, which is that of its record, where it leaves one, and the time it may take."""

    name: str
    arguments: tuple[str, ...]
    timeout_s: float
    has_record: bool = True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--corpus", type=Path, help="a folder of JPEG files, in place of made-up ones"
    )
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        variables = os.environ | {
            "PYTHONPATH": os.pathsep.join([*_installed(scratch), str(ROOT)]),
            "PYTHONUNBUFFERED": "1",
        }
        name = "tiny" if options.tiny else _gpu(variables)
        if name is None:
            print("There is no GPU that torch can use here. To check the script alone: --tiny")
            return 2
        corpus = options.corpus or scratch / "tiles"
        parts = _parts(corpus, scratch, options.tiny)
        if options.corpus is None:
            num = "24" if options.tiny else "1024"
            parts.insert(
                0,
                Part(
                    "tiles",
                    ("benchmarks/photo_tiles.py", str(corpus), "--made-up", "--num", num),
                    90,
                    False,
                ),
            )
        lines = []
        for part in parts:
            left = TOTAL_S - (time.monotonic() - started)
            lines.append(
                _run(part, min(part.timeout_s, left), options.out, name, scratch, variables)
                if left > 10
                else f"{part.name}: not run, no time left"
            )
            print(f"== {lines[-1]}", flush=True)
    print(
        "\nSummary\n"
        + "\n".join(lines)
        + f"\n{time.monotonic() - started:.0f} s in all; records in {options.out}"
    )
    return int(any(": ok" not in line for line in lines))


def _parts(corpus: Path, scratch: Path, tiny: bool) -> list[Part]:
    """The short ones first; of the benchmarks, those whose figures the project promises."""
    device = "cpu" if tiny else "cuda:0"
    harness = ("-m", "harness.cli.main", "bench")
    small = (
        ("--resolution", "32", "--batch-size", "4", "--rounds", "2", "--steps", "1")
        if tiny
        else ("--rounds", "5")
    )
    fed = ("--fed", "--corpus", str(corpus), "--scratch", str(scratch / "betons"))
    parts = [Part("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests"), 90, False)]
    for arch in ("resnet10",) if tiny else ("resnet18", "resnet50"):
        for kind, eps in (("clean", "0"), ("robust", "3")):
            parts.append(
                Part(
                    f"train_{arch}_{kind}",
                    (
                        *harness,
                        "train",
                        "--arch",
                        arch,
                        "--eps",
                        eps,
                        "--device",
                        device,
                        *small,
                        *fed,
                    ),
                    75,
                )
            )
        parts.append(
            Part(
                f"attack_{arch}",
                (*harness, "attack", "--arch", arch, "--device", device, *small),
                45,
            )
        )
    load = (
        "--corpus",
        str(corpus),
        "--scratch",
        str(scratch / "load"),
        "--device",
        device,
        "--rounds",
        "2" if tiny else "3",
        "--images",
        "24" if tiny else "4096",
        "--batch-size",
        "8" if tiny else "256",
        "--threads",
        str(len(os.sched_getaffinity(0))),
    )
    parts.append(
        Part(
            "packing", (*harness, "matrix", "--packing", "--scratch", str(scratch / "packing")), 90
        )
    )
    parts.append(
        Part(
            "load",
            (
                *harness,
                "load",
                *load,
                "--ours",
                "ours:restart,ours:resident",
                "--against",
                "ffcv:jpeg,torchvision:io,dali:gpu",
            ),
            120,
        )
    )
    return parts


def _run(
    part: Part, timeout_s: float, out: Path, gpu: str, scratch: Path, variables: dict[str, str]
) -> str:
    """One line on how it went; what it printed is above it."""
    record = out / f"{part.name}_{gpu}_{datetime.date.today().isoformat()}.json"
    command = [
        sys.executable,
        *part.arguments,
        *(("--json", str(record)) if part.has_record else ()),
    ]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=variables, start_new_session=True)
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return f"{part.name}: stopped after {timeout_s:.0f} s"
    took = f"{time.monotonic() - started:.0f} s"
    if part.name == "tests" and code == 5:  # pytest's code for "no tests"
        return f"{part.name}: no test was found, {took}"
    return (
        f"{part.name}: ok, {took}"
        if code == 0
        else f"{part.name}: FAILED with exit code {code}, {took}"
    )


def _installed(scratch: Path) -> list[str]:
    """The folder that the wheels were installed into, if there are any."""
    wheels = sorted(map(str, WHEELS.glob("*.whl")))
    if not wheels:
        return []
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--target",
            str(scratch / "site"),
            *wheels,
        ],
        check=True,
    )
    return [str(scratch / "site")]


def _gpu(variables: dict[str, str]) -> str | None:
    """Its name as in a file's."""
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    said = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True
    ).stdout.strip()
    return (
        re.sub(r"[^a-z0-9]+", "-", said.lower().removeprefix("nvidia ")).strip("-") or None
        if said
        else None
    )


if __name__ == "__main__":
    sys.exit(main())
