"""The source checkout, whose `benchmarks/` holds programs that are not part of the package."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def checkout_environment() -> dict[str, str]:
    """Return environment variables for a Python process that imports `benchmarks` from here.

    The folders of this process's PYTHONPATH stay in it, because packages may be installed there
    and nowhere else.
    """
    inherited = os.environ.get("PYTHONPATH", "")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited]))}
