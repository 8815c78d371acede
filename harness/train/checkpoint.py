"""Checkpoints of a run that may be interrupted: written whole or not at all, two kept, a damaged one passed over.

A file is the sha256 of what follows, 32 bytes, and then what `torch.save` writes: any byte that changed is noticed.
"""

import hashlib
import io
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.system.atomic_write import write_atomically

KEPT = 2
DIGEST_BYTES = 32


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is whole, and what was passed over on the way to it. No checkpoint: no state."""

    state: dict[str, Any] | None = None
    path: Path | None = None
    damaged: tuple[str, ...] = ()  # a line for each


def save(folder: Path, number: int, state: dict[str, Any]) -> Path:
    """Write checkpoint `number` (of tensors and plain values), and remove all but the last two."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path = folder / f"{number:09d}.pt"
    write_atomically(path, hashlib.sha256(payload).digest() + payload)
    for old in _found(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def latest(folder: Path) -> Found:
    """The newest checkpoint that is whole. Says on stderr which it passes over. Unpickles tensors and plain values only."""
    damaged: list[str] = []
    for path in reversed(_found(folder)):
        try:
            return Found(_read(path), path, tuple(damaged))
        except Exception as error:  # torch raises many kinds for a foreign file, and any of them means the same here
            why = next(iter(str(error).splitlines()), type(error).__name__)
            damaged.append(f"{path.name} is damaged ({why}); went back to the one before.")
            print(f"{path.parent}: {damaged[-1]}", file=sys.stderr)
    return Found(damaged=tuple(damaged))


def clear(folder: Path) -> None:
    """Remove all checkpoints."""
    for path in _found(folder):
        path.unlink(missing_ok=True)


def random_state(device: str) -> dict[str, Any]:
    """The states of the global generators of torch, numpy and Python, as tensors and plain values.

    numba's generator cannot be read, and nothing here draws from it: what is random in a loader is a hash.
    """
    name, words, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    numpy_state = {
        "name": name,
        "words": torch.from_numpy(np.asarray(words).astype(np.int64)),
        "position": int(position),
        "has_gauss": int(has_gauss),
        "gauss": float(gauss),
    }
    on_gpu = torch.device(device).type == "cuda"
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if on_gpu else None,
        "numpy": numpy_state,
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any], device: str) -> None:
    """Put the generators where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    saved = state["numpy"]
    words = saved["words"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        (saved["name"], words, saved["position"], saved["has_gauss"], saved["gauss"])
    )
    version, python_words, gauss = state["python"]
    random.setstate((version, tuple(python_words), gauss))


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    digest, payload = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("its bytes are not those that were written")
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.pt") if re.fullmatch(r"\d{9}\.pt", path.name))
