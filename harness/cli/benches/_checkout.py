"""Run programs of `benchmarks/`, which are in the source checkout but not in the package."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from writers.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def checkout_environment() -> dict[str, str]:
    """Return environment variables for a Python process that imports `benchmarks` from here.

    PYTHONPATH keeps the folders that it has in this process, because some packages may be
    installed only there.
    """
    inherited = os.environ.get("PYTHONPATH", "")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited]))}


def measure_in_checkout(program: str, work: Mapping[str, Any], what: str) -> Any:
    """Run a program of `benchmarks/`, which prints JSON, and return its parsed output.

    Args:
        program: Name of the module in `benchmarks/`.
        work: Fields of `benchmarks.contender.Work`, such as the corpus, batch size and threads.
        what: Plural noun for what the program measures; the error message begins with it.

    Raises:
        UserError: The program failed. The message contains the last line of its stderr.
    """
    process = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{program}", json.dumps(work)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=checkout_environment(),
    )
    if process.returncode:
        reason = process.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"{what} cannot be measured: {reason[0]}")
    return json.loads(process.stdout)
