"""The three folders that every command works in: betons, raw downloads, and stages with their reports."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """All absolute, `~` expanded; none needs to exist yet."""

    data: Path  # $HARNESS_DATA: betons
    raw: Path  # $HARNESS_RAW: what people downloaded
    runs: Path  # $HARNESS_RUNS: stages, reports

    @classmethod
    def resolve(cls, data: str | Path, raw: str | Path, runs: str | Path) -> "Folders":
        # Not Path.resolve(): links stay as the person wrote them.
        absolute = [os.path.abspath(Path(folder).expanduser()) for folder in (data, raw, runs)]  # noqa: PTH100
        return cls(*map(Path, absolute))
