"""GPU check in three parts of under 9 minutes: correctness, training speed, loading and packing.

    python -m benchmarks.gpu_check [--part A|B|C] [--out benchmarks/results] [--tiny]
    make gpu-check PART=A

Needs a Python with torch, torchvision and numba. Wheels in `.whl/` (`make gpu-bundle`) are
installed first, without a network. The images are generated (benchmarks/photo_tiles.py --made-up)
unless --corpus names real ones.

A part is a list of steps with time limits. If a step fails or runs out of time, the next one
starts. After each step the summary of the part is saved as OUT/gpu_check_<part>_<gpu>_<date>.json.
Benchmarks save their own records, OUT/<step>_<gpu>_<date>.json, after each round. --tiny rehearses
everything on a CPU; the measured numbers then mean nothing.
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
from benchmarks.gpu_check_parts import ROOT, TINY_SLACK, Step, plan
from benchmarks.gpu_predictions import comparison

WHEELS = ROOT / ".whl"
# Time limit of one call in seconds, including the installation.
PART_S = 520.0
# A step is not started if less time is left, in seconds.
MIN_STEP_S = 10.0
# Time limit passed to a benchmark, as a fraction of the step's limit, so that it ends by itself.
FRACTION_FOR_ROUNDS = 0.85


@dataclass(frozen=True)
class StepResult:
    """Result of a step.

    Attributes:
        name: Name of the step.
        outcome: How the step ended.
        seconds: Wall time of the step.
        limit_s: Time limit of the step in seconds, at most the time that was left.
        rounds: Complete and planned rounds of a benchmark; None if the step recorded no rounds.
        record: File name of the step's record; None if there is none.
        message: Loaders or settings under test that were not measured, and the end of the output
            after a failure.
    """

    name: str
    outcome: Literal["ok", "failed", "stopped", "no test", "not run"]
    seconds: float
    limit_s: float
    rounds: tuple[int, int] | None = None
    record: str | None = None
    message: str = ""


def main() -> int:
    """Run the parts on the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["A", "B", "C"], action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--corpus", type=Path, help="folder of JPEG files instead of generated ones"
    )
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[StepResult] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch, started = Path(folder), time.monotonic()
        variables = install(scratch)
        gpu = "tiny" if options.tiny else gpu_name(variables)
        if gpu is None:
            print("torch finds no GPU. Use --tiny to rehearse the check on a CPU.")
            return 2
        corpus = options.corpus or scratch / "tiles"
        parts = plan(
            corpus, scratch, options.out, options.tiny, has_corpus=options.corpus is not None
        )
        part_s = PART_S * (TINY_SLACK if options.tiny else 1)
        for number, name in enumerate(options.part or parts):
            part_started = started if number == 0 else time.monotonic()
            results += run_part(
                name, parts[name], part_started + part_s, options.out, gpu, variables
            )
    print(report(options.out, gpu))
    return int(any(result.outcome not in ("ok", "no test") for result in results))


def run_part(
    name: str,
    steps: Iterable[Step],
    deadline: float,
    out: Path,
    gpu: str,
    variables: Mapping[str, str],
) -> list[StepResult]:
    """Run the steps of a part and save its summary after each.

    Args:
        name: Name of the part.
        steps: Steps to run.
        deadline: `time.monotonic()` after which no step starts.
        out: Folder of summaries and records.
        gpu: Name of the GPU in file names.
        variables: Environment variables of the steps.
    """
    date = datetime.date.today().isoformat()
    file = out / f"gpu_check_{name}_{gpu}_{date}.json"
    results: list[StepResult] = []
    for step in steps:
        left_s = deadline - time.monotonic()
        record = out / f"{step.name}_{gpu}_{date}.json"
        results.append(run_step(step, min(step.limit_s, left_s), record, variables))
        summary = {
            "part": name,
            "gpu": gpu,
            "date": date,
            "steps": [asdict(result) for result in results],
        }
        write_json(file, summary)
        print(
            f"== {name} {step.name}: {results[-1].outcome}, {results[-1].seconds:.0f} s", flush=True
        )
    return results


def run_step(step: Step, limit_s: float, record: Path, variables: Mapping[str, str]) -> StepResult:
    """Run one step, print its output, and read the number of complete rounds from its record."""
    if limit_s < MIN_STEP_S:
        return StepResult(step.name, "not run", 0, max(limit_s, 0), message="no time was left")
    record.unlink(missing_ok=True)  # so that an old record is not read as this run's
    command = [sys.executable, *step.arguments]
    if step.is_bench:
        command += ["--json", str(record), "--time-limit", f"{FRACTION_FOR_ROUNDS * limit_s:.0f}"]
    if step.name == "installation":
        command += ["--json", str(record)]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(variables) | dict(step.variables),
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
    content = json.loads(record.read_text()) if record.exists() else {}
    notes = [f"absent: {name}: {why}" for name, why in content.get("absent", {}).items()]
    if code != 0:
        notes += [" / ".join(output.strip().splitlines()[-3:])[-500:]]
    return StepResult(
        step.name,
        outcome,
        round(time.monotonic() - started, 1),
        round(limit_s, 1),
        (content["rounds_complete"], content["rounds_planned"])
        if "rounds_planned" in content
        else None,
        record.name if content else None,
        "; ".join(notes),
    )


def report(out: Path, gpu: str) -> str:
    """Format the steps of the latest parts on this GPU, and their measurements with predictions."""
    latest = summaries(out, gpu)
    names = [row["record"] for summary in latest for row in summary["steps"] if row["record"]]
    records = {
        name: json.loads((out / name).read_text()) for name in names if (out / name).exists()
    }
    return f"{table(latest)}\n{comparison(records, gpu)}"


def summaries(out: Path, gpu: str) -> list[dict[str, Any]]:
    """Read the latest summary on `gpu` of each part (A, B and C), in the order of parts."""
    latest = {}
    for file in sorted(out.glob(f"gpu_check_[ABC]_{gpu}_*.json")):  # dates sort as text
        summary = json.loads(file.read_text())
        latest[summary["part"]] = summary
    return [latest[part] for part in sorted(latest)]


def table(summaries: Iterable[Mapping[str, Any]]) -> str:
    """Format summaries as Markdown, with a row for each step of each part."""
    lines = [
        "",
        "| part | date | step | outcome | s | limit | rounds | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for summary in summaries:
        for row in summary["steps"]:
            rounds = "" if row["rounds"] is None else "{} of {}".format(*row["rounds"])
            outcome = (
                row["outcome"] if row["outcome"] in ("ok", "no test") else row["outcome"].upper()
            )
            message = row["message"].replace("|", "\\|").replace("\n", " ")
            lines.append(
                f"| {summary['part']} | {summary['date']} | {row['name']} | {outcome} "
                f"| {row['seconds']:.0f} | {row['limit_s']:.0f} | {rounds} | {message} |"
            )
    return "\n".join(lines)


def install(scratch: Path) -> dict[str, str]:
    """Install the bundled wheels; return environment variables for the steps.

    The wheels go to a folder of this run, after the checkout on PYTHONPATH. Their C parts are
    copied to the checkout if its own are missing or do not load. A bundle for another Python
    version is ignored; the step `installation` then reports what is missing.

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
            f"Ignoring the wheels in {WHEELS.name}: they are for Python {bundle['python']}, not "
            f"{python}."
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
    code = (
        "import sys; from benchmarks.installation import kernel_faults; "
        "sys.exit(bool(kernel_faults()))"
    )
    if subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=variables).returncode:
        copy_c_parts(site, ROOT)
    return variables


def copy_c_parts(site: Path, root: Path) -> None:
    """Copy the C parts of an installed wheel, and the libraries they link to, to a checkout."""
    for package in ("loaders", "writers"):
        shutil.copy(site / package / "_kernel.abi3.so", root / package)
    shutil.copytree(site / "harness.libs", root / "harness.libs", dirs_exist_ok=True)


def gpu_name(variables: Mapping[str, str]) -> str | None:
    """Return the name of the first GPU, fit for a file name; None if torch finds no GPU."""
    code = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
    process = subprocess.run(
        [sys.executable, "-c", code], env=dict(variables), capture_output=True, text=True
    )
    name = process.stdout.strip().lower().removeprefix("nvidia ")
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-") or None


def write_json(file: Path, content: Any) -> None:
    """Write JSON and rename it, so that a killed call leaves the old or the new content."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(file)


if __name__ == "__main__":
    sys.exit(main())
