"""Checkpoints of a run that may be interrupted: written whole or not at all, two kept, a damaged one passed over."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import torch

from harness.result import write_atomically

KEPT = 2


def save(folder: Path, number: int, state: dict[str, Any]) -> None:
    """Write checkpoint `number` (of tensors and plain values), and remove all but the last two."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / f"{number:06d}.pt", buffer.getvalue())
    for path in _found(folder)[:-KEPT]:
        path.unlink(missing_ok=True)


def latest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint that is whole, or None. Says which it passes over. Unpickles tensors and plain values only."""
    for path in reversed(_found(folder)):
        try:
            return int(path.stem), torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:      # torch raises many kinds for a damaged file, and any of them means the same here
            why = next(iter(str(error).splitlines()), type(error).__name__)
            print(f"{path} is damaged ({why}); going back to the one before.", file=sys.stderr)
    return None


def clear(folder: Path) -> None:
    """Remove all checkpoints."""
    for path in _found(folder):
        path.unlink(missing_ok=True)


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.pt") if re.fullmatch(r"\d{6}\.pt", path.name))
