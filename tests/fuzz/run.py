"""Fuzz in child processes. A child that crashes or hangs is a finding; the next child continues."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.sanitized import environment
from tests.helpers import ROOT

TARGETS = ("jpeg", "index", "dct", "beton")
CASES_PER_CHILD = 5000
MAX_STDERR = 6000  # characters of a child's stderr in a finding, from its start


@dataclass(frozen=True)
class Finding:
    """A case that went wrong."""

    target: str
    seed: int
    number: int
    problem: str

    def __str__(self) -> str:
        command = (
            f"python -m tests.fuzz {self.target} --seed {self.seed} --first {self.number} --count 1"
        )
        return f"{self.target} {self.seed}/{self.number}: {self.problem}\n  again: {command}"


def fuzz(
    gcc: str,
    libraries: Path,
    target: str,
    seed: int,
    first: int,
    count: int,
    *,
    limit: float = 60,
) -> Iterator[Finding]:
    """Run cases first ... first + count - 1 of a target.

    Args:
        gcc: path of the compiler.
        libraries: folder that `build(gcc)` returned.
        target: one of TARGETS.
        seed: seed of all cases.
        first: number of the first case.
        count: number of cases.
        limit: seconds that a case may take.
    """
    end, start = first + count, first
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory()) as folder:
        state = Path(folder) / "number"
        while start < end:
            number_of_cases = min(CASES_PER_CHILD, end - start)
            state.write_text(str(start))
            arguments = ["--seed", seed, "--first", start, "--count", number_of_cases]
            arguments += ["--libraries", libraries, "--state", state, "--limit", limit]
            child = subprocess.run(
                [sys.executable, "-m", "tests.fuzz.child", target, *map(str, arguments)],
                cwd=ROOT,
                env=environment(gcc),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit * (number_of_cases + 20),
            )
            for line in child.stdout.splitlines():
                found = json.loads(line)
                yield Finding(target, seed, found["number"], found["problem"])
            if child.returncode == 0:
                start += number_of_cases
            else:
                ended_at = int(state.read_text())
                words = child.stderr[:MAX_STDERR]
                yield Finding(
                    target, seed, ended_at, f"the process ended with {child.returncode}:\n{words}"
                )
                start = ended_at + 1


def _memory() -> Path | None:
    """Return /dev/shm, whose files are in memory, or None if it cannot be written."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and os.access(memory, os.W_OK) else None
