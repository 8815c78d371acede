"""Steps of the parts of the GPU check, with their time limits."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A rehearsal may take this many times the limits: the CPU may be slow, and busy with other work.
TINY_SLACK = 5
# Seconds of each part's time limit that are reserved for the installation.
INSTALL_S = 30.0
# The GPU of a rehearsal: the fields of `tests.rehearsal.machine.Gpu`.
FAKE_GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "memory_mib": 81559,
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "capability": [9, 0],
    "utilization": 40,
    "mig": [],
}


# Pytest plugins of the machine may not fit the bundled pytest, and would make every run fail.
NO_OTHER_PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@dataclass(frozen=True)
class Step:
    """One Python command.

    Attributes:
        name: Name of the step and of its record.
        arguments: Arguments of the Python interpreter.
        limit_s: Time limit in seconds.
        is_bench: True if the command accepts --json and --time-limit and records rounds.
        variables: Environment variables that the step needs beyond those of all steps.
    """

    name: str
    arguments: tuple[str, ...]
    limit_s: float
    is_bench: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


def plan(
    corpus: Path, scratch: Path, out: Path, tiny: bool, has_corpus: bool = False
) -> dict[str, list[Step]]:
    """Return the steps of each part.

    The time limits of a part's steps and INSTALL_S add up to at most `gpu_check.PART_S`. The limits
    of a rehearsal are TINY_SLACK times as long.

    Args:
        corpus: Folder of JPEG files.
        scratch: Folder of `.beton` files and runs.
        out: Folder of records and traces.
        tiny: True rehearses everything on a CPU.
        has_corpus: False adds a step that makes the images of the corpus.
    """
    device = "cpu" if tiny else "cuda:0"
    installation = Step("installation", ("-m", "benchmarks.installation", "--device", device), 45)
    num = "24" if tiny else "1024"
    made_up = ("-m", "benchmarks.photo_tiles", str(corpus), "--made-up", "--num", num)
    tiles = [] if has_corpus else [Step("tiles", made_up, 45)]
    plugins = ("-p", "pytest_timeout", "-p", "no:cacheprovider")
    tests = Step(
        "tests",
        ("-m", "pytest", "-q", "-m", "gpu", *plugins, *gpu_tests()),
        430,
        variables=NO_OTHER_PLUGINS | (rehearsal_variables() if tiny else {}),
    )
    parts = {
        "A": [installation, tests],
        "B": [installation, *tiles, *_training(corpus, scratch, out, device, tiny)],
        "C": [installation, *tiles, *_other(corpus, scratch, device, tiny)],
    }
    if not tiny:
        return parts
    one_thread = {"OMP_NUM_THREADS": "1"}  # on a busy CPU, threads wait long for each other
    return {
        part: [
            replace(
                step, limit_s=TINY_SLACK * step.limit_s, variables=one_thread | dict(step.variables)
            )
            for step in steps
        ]
        for part, steps in parts.items()
    }


def rehearsal_variables() -> dict[str, str]:
    """Return the environment in which Python has the fake GPU of tests/rehearsal."""
    return {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/rehearsal/activation"), str(ROOT)]),
        "REHEARSAL_GPUS": json.dumps([FAKE_GPU]),
    }


def _training(corpus: Path, scratch: Path, out: Path, device: str, tiny: bool) -> list[Step]:
    """Return the steps for clean and robust training, and training fed by the loader.

    The most important ones come first, in case the time runs out.
    """
    bench = ("-m", "harness.cli.main", "bench", "train")
    sizes = ("--resolution", "16", "--batch-size", "2", "--rounds", "2", "--steps", "1")
    common = ("--device", device, *(sizes if tiny else ("--rounds", "5")))
    corpus_and_scratch = ("--corpus", str(corpus), "--scratch", str(scratch / "betons"))
    grid = ("--fed-from", "jpeg,dct,raw", "--threads", "2,1" if tiny else "16,8,4")
    trace = ("--trace", str(out / f"trace_{'tiny' if tiny else 'gpu'}"))
    mode = "eager" if tiny else "compiled"
    small, large = "resnet10" if tiny else "resnet18", "resnet50"
    fed = (*common, "--eager", "--fed", "--fed-mode", mode, *corpus_and_scratch)
    # Name, architecture, eps, options, seconds.
    rows = [
        (f"train_{small}_clean", small, "0", (*common, "--not-fed", "--timer"), 75.0),
        (f"fed_{small}_clean", small, "0", (*fed, *grid, *trace), 100.0),
        (f"train_{small}_robust", small, "3", (*common, "--not-fed"), 75.0),
    ]
    if not tiny:
        rows += [
            (f"train_{large}_clean", large, "0", (*common, "--not-fed"), 70.0),
            (f"train_{large}_robust", large, "3", (*common, "--not-fed"), 80.0),
        ]
    return [
        Step(name, (*bench, "--arch", arch, "--eps", eps, *options), seconds, is_bench=True)
        for name, arch, eps, options, seconds in rows
    ]


def _other(corpus: Path, scratch: Path, device: str, tiny: bool) -> list[Step]:
    """Return steps that compare loaders, share a GPU, time attacks, and run a small recipe."""
    bench = ("-m", "harness.cli.main", "bench")
    num_threads = len(os.sched_getaffinity(0))
    sizes = ("2", "24", "8") if tiny else ("3", "4096", "256")
    sized = zip(("--rounds", "--images", "--batch-size"), sizes, strict=True)
    load = (
        *("--corpus", str(corpus), "--scratch", str(scratch / "load"), "--device", device),
        *(word for option in sized for word in option),
        *("--threads", str(num_threads)),
        *("--ours", "ours:restart,ours:dct,ours:resident,ours:restart_numba"),
        *("--against", "ffcv:jpeg,torchvision:io,torchvision:nvjpeg,dali:gpu"),
    )
    recipe = (
        *("-m", "harness.cli.main", "run", "robust_l2", "--set", "scale=tiny"),
        *("--set", "eps=[0, 3]", "--device", device.partition(":")[0]),
        *("--data-dir", str(scratch / "recipe/data"), "--runs-dir", str(scratch / "recipe/runs")),
    )
    packing = ("matrix", "--packing", "--rounds", "3", "--scratch", str(scratch / "packing"))
    attack = ("attack", "--device", device, *(("--resolution", "16") if tiny else ()))
    attack_sizes = ("--batch-size", "2", "--rounds", "2", "--steps", "1", "--arch", "resnet10")
    return [
        Step("load", (*bench, "load", *load), 150, is_bench=True),
        Step("packing", (*bench, *packing), 110, is_bench=True),
        Step("attack", (*bench, *attack, *(attack_sizes if tiny else ())), 40, is_bench=True),
        Step("recipe", recipe, 100),
    ]


def gpu_tests() -> list[str]:
    """Return the test files with GPU tests; collecting all tests would take longer than running."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "mark.gpu" in file.read_text()]
