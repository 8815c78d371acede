"""Folders that commands use: for `.beton` files, for raw downloads, for stages and reports."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folders:
    """Absolute paths; the folders need not exist.

    Attributes:
        data: `.beton` files ($HARNESS_DATA).
        raw: Raw downloads ($HARNESS_RAW).
        runs: Stages and reports ($HARNESS_RUNS).
    """

    data: Path
    raw: Path
    runs: Path

    @classmethod
    def resolve(cls, data: str | Path, raw: str | Path, runs: str | Path) -> "Folders":
        """Make the paths absolute and expand `~`. Symbolic links are not resolved."""
        absolute = [os.path.abspath(Path(folder).expanduser()) for folder in (data, raw, runs)]  # noqa: PTH100
        LOGGER.debug("Folders of betons, raw images and runs: %s", ", ".join(absolute))
        return cls(*map(Path, absolute))


def user_cache() -> Path:
    """Return the cache folder, which may be deleted at any time.

    It is `harness` in $XDG_CACHE_HOME, or in ~/.cache.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "harness"
