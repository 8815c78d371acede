"""What needs a GPU, in three parts of under 9 minutes each: correctness, training speed, and the rest.

    python -m benchmarks.gpu_check [--part A|B|C] [--out benchmarks/results] [--tiny]        (make gpu-check PART=A)

Needs a Python with torch, torchvision and numba. Wheels in `.whl/` (`make gpu-bundle`) are installed first, without
a network. The images are made up (benchmarks/photo_tiles.py --made-up) unless --corpus names real ones. A part is
a list of steps, each with a time limit; after a step that fails or runs out of time the next one begins. After
each step the summary of the part, OUT/gpu_check_<part>_<gpu>_<date>.json, is saved; benchmarks save their own
records, OUT/<step>_<gpu>_<date>.json, after each round. --tiny rehearses all of it on a CPU: it measures nothing.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu_bundle import RECORD, c_sources_digest

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".whl"
PART_S = 520.0  # of one call, installation included
INSTALL_S = 30.0
MIN_STEP_S = 10.0  # with less time left a step is not begun
SHARE_FOR_ROUNDS = 0.85  # of a step's limit, the benchmark's own time limit; then it ends by itself


@dataclass(frozen=True)
class Step:
    """One command of Python. `is_bench`: it takes --json and --time-limit, and its record counts rounds."""

    name: str
    arguments: tuple[str, ...]
    limit_s: float
    is_bench: bool = False


@dataclass(frozen=True)
class Ended:
    """How a step went.

    `rounds` are the complete and the planned ones of its record, None if it has none. `message` names
    the contenders that were not measured, and has the last lines of what failed.
    """

    name: str
    outcome: Literal["ok", "failed", "stopped", "no test", "not run"]
    seconds: float
    limit_s: float
    rounds: tuple[int, int] | None = None
    record: str | None = None
    message: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["A", "B", "C"], action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--corpus", type=Path, help="a folder of JPEG files, instead of made-up ones"
    )
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    ended: list[Ended] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch, started = Path(folder), time.monotonic()
        variables = install(scratch)
        gpu = "tiny" if options.tiny else gpu_name(variables)
        if gpu is None:
            print("torch finds no GPU here. To rehearse the check on a CPU: --tiny")
            return 2
        corpus = options.corpus or scratch / "tiles"
        parts = plan(corpus, scratch, options.tiny, has_corpus=options.corpus is not None)
        for number, name in enumerate(options.part or parts):
            begun = started if number == 0 else time.monotonic()
            ended += run_part(name, parts[name], begun + PART_S, options.out, gpu, variables)
    print(table(summaries(options.out, gpu)))
    return int(any(one.outcome not in ("ok", "no test") for one in ended))


def plan(
    corpus: Path, scratch: Path, tiny: bool, has_corpus: bool = False
) -> dict[str, list[Step]]:
    """Part -> its steps. The limits of a part, and INSTALL_S, add up to PART_S at most."""
    device = "cpu" if tiny else "cuda:0"
    installation = Step("installation", ("-m", "benchmarks.installation", "--device", device), 45)
    num = "24" if tiny else "1024"
    made_up = ("-m", "benchmarks.photo_tiles", str(corpus), "--made-up", "--num", num)
    tiles = [] if has_corpus else [Step("tiles", made_up, 45)]
    return {
        "A": [installation, Step("tests", ("-m", "pytest", "-q", "-m", "gpu", *gpu_tests()), 240)],
        "B": [installation, *tiles, *_training(corpus, scratch, device, tiny)],
        "C": [installation, *tiles, *_loading_and_packing(corpus, scratch, device, tiny)],
    }


def _training(corpus: Path, scratch: Path, device: str, tiny: bool) -> list[Step]:
    """Clean and robust training, and what an attack costs: for each network, the small one first."""
    bench = ("-m", "harness.cli.main", "bench")
    sizes = ("--resolution", "16", "--batch-size", "2", "--rounds", "2", "--steps", "1")
    common = ("--device", device, *(sizes if tiny else ("--rounds", "5")))
    fed = ("--fed", "--corpus", str(corpus), "--scratch", str(scratch / "betons"))
    limits = (
        {"resnet10": (130, 130, 130)}
        if tiny
        else {"resnet18": (60, 70, 40), "resnet50": (75, 95, 60)}
    )
    return [
        step
        for arch, (clean_s, robust_s, attack_s) in limits.items()
        for step in (
            Step(
                f"train_{arch}_clean",
                (*bench, "train", "--arch", arch, "--eps", "0", *common, *fed),
                clean_s,
                is_bench=True,
            ),
            Step(
                f"train_{arch}_robust",
                (*bench, "train", "--arch", arch, "--eps", "3", *common, *fed),
                robust_s,
                is_bench=True,
            ),
            Step(
                f"attack_{arch}",
                (*bench, "attack", "--arch", arch, *common),
                attack_s,
                is_bench=True,
            ),
        )
    ]


def _loading_and_packing(corpus: Path, scratch: Path, device: str, tiny: bool) -> list[Step]:
    """Loaders against others, and small fine-tunes side by side on the GPU."""
    bench = ("-m", "harness.cli.main", "bench")
    num_threads = len(os.sched_getaffinity(0))
    sizes = ("2", "24", "8") if tiny else ("3", "4096", "256")
    sized = zip(("--rounds", "--images", "--batch-size"), sizes, strict=True)
    load = (
        *("--corpus", str(corpus), "--scratch", str(scratch / "load"), "--device", device),
        *(word for option in sized for word in option),
        *("--threads", str(num_threads)),
        *("--ours", "ours:restart,ours:restart_numba,ours:resident"),
        *("--against", "ffcv:jpeg,torchvision:io,dali:gpu"),
    )
    return [
        Step("load", (*bench, "load", *load), 240, is_bench=True),
        Step(
            "packing",
            (*bench, "matrix", "--packing", "--rounds", "3", "--scratch", str(scratch / "packing")),
            150,
            is_bench=True,
        ),
    ]


def gpu_tests() -> list[str]:
    """Test files with a test that needs a GPU: collecting all of the tests takes longer than running these."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "mark.gpu" in file.read_text()]


def run_part(
    name: str,
    steps: Iterable[Step],
    deadline: float,
    out: Path,
    gpu: str,
    variables: Mapping[str, str],
) -> list[Ended]:
    """Run the steps until the deadline (`time.monotonic()`), and save the summary after each."""
    date = datetime.date.today().isoformat()
    file = out / f"gpu_check_{name}_{gpu}_{date}.json"
    ended: list[Ended] = []
    for step in steps:
        left_s = deadline - time.monotonic()
        record = out / f"{step.name}_{gpu}_{date}.json"
        ended.append(run_step(step, min(step.limit_s, left_s), record, variables))
        summary = {"part": name, "gpu": gpu, "date": date, "steps": [asdict(one) for one in ended]}
        write_json(file, summary)
        print(f"== {name} {step.name}: {ended[-1].outcome}, {ended[-1].seconds:.0f} s", flush=True)
    return ended


def run_step(step: Step, limit_s: float, record: Path, variables: Mapping[str, str]) -> Ended:
    """Run one step, print its output, and read from its record how many rounds are complete."""
    if limit_s < MIN_STEP_S:
        return Ended(step.name, "not run", 0, max(limit_s, 0), message="no time was left")
    record.unlink(missing_ok=True)  # an old record must not count as this run's
    command = [sys.executable, *step.arguments]
    if step.is_bench:
        command += ["--json", str(record), "--time-limit", f"{SHARE_FOR_ROUNDS * limit_s:.0f}"]
    if step.name == "installation":
        command += ["--json", str(record)]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(variables),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
        log.seek(0)
        output = log.read()
    print(output, end="", flush=True)
    outcome: Literal["ok", "failed", "stopped", "no test"] = (
        "stopped" if code is None else "ok" if code == 0 else "failed"
    )
    if step.name == "tests" and code == 5:  # pytest's code for "no tests collected"
        outcome = "no test"
    found = json.loads(record.read_text()) if record.exists() else {}
    notes = [f"absent: {name}: {why}" for name, why in found.get("absent", {}).items()]
    if code != 0:
        notes += [" / ".join(output.strip().splitlines()[-3:])[-500:]]
    return Ended(
        step.name,
        outcome,
        round(time.monotonic() - started, 1),
        round(limit_s, 1),
        (found["rounds_complete"], found["rounds_planned"]) if "rounds_planned" in found else None,
        record.name if found else None,
        "; ".join(notes),
    )


def summaries(out: Path, gpu: str) -> list[dict[str, Any]]:
    """The latest summary of each part on this GPU."""
    latest = {}
    for file in sorted(out.glob(f"gpu_check_[ABC]_{gpu}_*.json")):  # dates sort as text
        summary = json.loads(file.read_text())
        latest[summary["part"]] = summary
    return [latest[part] for part in sorted(latest)]


def table(found: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: a row for each step of each part."""
    lines = [
        "",
        "| part | date | step | outcome | s | limit | rounds | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for summary in found:
        for one in summary["steps"]:
            rounds = "" if one["rounds"] is None else "{} of {}".format(*one["rounds"])
            outcome = (
                one["outcome"] if one["outcome"] in ("ok", "no test") else one["outcome"].upper()
            )
            message = one["message"].replace("|", "\\|").replace("\n", " ")
            lines.append(
                f"| {summary['part']} | {summary['date']} | {one['name']} | {outcome} | {one['seconds']:.0f} "
                f"| {one['limit_s']:.0f} | {rounds} | {message} |"
            )
    return "\n".join(lines)


def install(scratch: Path) -> dict[str, str]:
    """Environment variables for the steps, after the wheels and, where it has none that loads, the C parts are in place.

    The wheels go to a folder of this run. The checkout's own code comes before the wheels'. A bundle for
    another Python version is left alone: the step `installation` reports what is missing.

    Raises:
        SystemExit: The bundle was built from other C sources, or pip cannot install it.
    """
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    record = WHEELS / RECORD
    if not record.exists():
        return variables
    bundle = json.loads(record.read_text())
    python = "{}.{}".format(*sys.version_info[:2])
    if bundle["python"] != python:
        print(
            f"The wheels in {WHEELS.name} are for Python {bundle['python']}, not {python}: not used."
        )
        return variables
    if bundle["c_sources"] != c_sources_digest(ROOT):
        raise SystemExit(f"{WHEELS} was built from other C sources: run make gpu-bundle again.")
    site = scratch / "site"
    wheels = [str(WHEELS / name) for name in bundle["wheels"]]
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(site)])
    options = ["-q", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
    if subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels]).returncode:
        raise SystemExit(f"The wheels in {WHEELS} could not be installed.")
    code = "import sys; from benchmarks.installation import kernel_faults; sys.exit(bool(kernel_faults()))"
    if subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables).returncode:
        copy_c_parts(site, ROOT)
    return variables


def copy_c_parts(site: Path, root: Path) -> None:
    """The C parts of an installed wheel, and the libraries that they link to, into a checkout."""
    for package in ("loaders", "writers"):
        shutil.copy(site / package / "_kernel.abi3.so", root / package)
    shutil.copytree(site / "harness.libs", root / "harness.libs", dirs_exist_ok=True)


def gpu_name(variables: Mapping[str, str]) -> str | None:
    """Of the first GPU, in the form of a file's name; None if torch finds no GPU."""
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=dict(variables), capture_output=True, text=True
    )
    name = ended.stdout.strip().lower().removeprefix("nvidia ")
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-") or None


def write_json(file: Path, content: Any) -> None:
    """Replace the file in one step: a reader, or a call that is killed, leaves the old one or the new one."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(file)


if __name__ == "__main__":
    sys.exit(main())
