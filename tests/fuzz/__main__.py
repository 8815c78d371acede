"""Command line of the fuzzers, see `tests/fuzz/__init__.py`."""

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.run import TARGETS, fuzz
from tests.fuzz.sanitized import BUILD, build, compiler

MAX_FINDINGS = 20  # per target


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}; default: all"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--count", type=int, default=2000, help="cases of each target")
    parser.add_argument("--limit", type=float, default=60, help="seconds that a case may take")
    chosen = parser.parse_args()
    unknown = [target for target in chosen.targets if target not in TARGETS]
    if unknown:
        parser.error(f"unknown target {unknown[0]}")
    gcc = compiler()
    if gcc is None:
        print("Fuzzing needs gcc with AddressSanitizer on Linux (Debian: gcc libjpeg-dev).")
        return 2
    libraries, num_findings = build(gcc), 0
    for target in chosen.targets or TARGETS:
        started, of_target = time.monotonic(), 0
        print(
            f"{target}: seed {chosen.seed}, {chosen.count:,} cases from {chosen.first}", flush=True
        )
        for finding in fuzz(
            gcc, libraries, target, chosen.seed, chosen.first, chosen.count, limit=chosen.limit
        ):
            num_findings, of_target = num_findings + 1, of_target + 1
            saved = save_input(target, finding.seed, finding.number)
            print(f"{finding}\n  input: {saved}", flush=True)
            if of_target == MAX_FINDINGS:
                print(f"{target}: stopped after {MAX_FINDINGS} findings")
                break
        print(f"{target}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"{num_findings} findings")
    return 1 if num_findings else 0


def save_input(target: str, seed: int, number: int) -> Path:
    """Write the input of a case to `build/fuzz/findings`; a `.beton` file is written with its manifest."""
    from tests.fuzz.cases import image_case
    from tests.fuzz.tables import write_case

    folder = BUILD / "findings"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target}-{seed}-{number}"
    if target == "beton":
        write_case(path, seed, number)
    else:
        path.write_bytes(image_case(target, seed, number).data)
    return path


if __name__ == "__main__":
    sys.exit(main())
