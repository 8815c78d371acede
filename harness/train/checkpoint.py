"""Save and load checkpoints of a training that may be interrupted.

Files are written atomically. The last two are kept, and damaged files are skipped. A file is the
output of `torch.save` after its sha256 digest (32 bytes), so any changed byte is detected.
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
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from writers.errors import UserError
from writers.text_names import counted, first_line

NUM_KEPT = 2
EVERY_S = 300.0
DIGEST_BYTES = 32


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a training loop saves its state.

    Attributes:
        folder: Folder of the checkpoints.
        device: Device whose random generator is saved with the state.
        every_s: Seconds between checkpoints.
        group: Ranks that train together.
    """

    folder: Path
    device: str = "cpu"
    every_s: float = EVERY_S
    group: ProcessGroup = SINGLE_PROCESS


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The newest intact checkpoint.

    Attributes:
        state: The saved state; None if there is no intact checkpoint.
        path: The checkpoint's file; None if there is no intact checkpoint.
        damaged: One line for each newer checkpoint that was skipped.
    """

    state: dict[str, Any] | None = None
    path: Path | None = None
    damaged: tuple[str, ...] = ()


def save(folder: Path, number: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint and remove all but the last two.

    Args:
        folder: Folder of the checkpoints.
        number: Number of the checkpoint; higher is newer.
        state: Tensors and plain Python values.

    Returns:
        Path of the written file.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path = folder / f"{number:09d}.pt"
    write_atomically(path, hashlib.sha256(payload).digest() + payload)
    for old in _files(folder)[:-NUM_KEPT]:
        old.unlink(missing_ok=True)
    return path


def latest(folder: Path) -> LoadedCheckpoint:
    """Load the newest intact checkpoint. Damaged ones are skipped and reported on stderr.

    Unpickles tensors and plain Python values only.
    """
    damaged: list[str] = []
    for path in reversed(_files(folder)):
        try:
            return LoadedCheckpoint(_read(path), path, tuple(damaged))
        except Exception as error:  # torch raises many exception types for a damaged file
            reason = first_line(error)
            damaged.append(f"{path.name} is damaged ({reason}) and is skipped.")
            print(f"{path.parent}: {damaged[-1]}", file=sys.stderr)
    return LoadedCheckpoint(damaged=tuple(damaged))


def latest_for_rank(checkpoints: Checkpoints) -> LoadedCheckpoint:
    """Load the newest checkpoint, with the learner and random states that this rank has saved.

    Only rank 0 reads the file; the other ranks receive its content.

    Raises:
        UserError: Another number of ranks, or a run on another type of device, wrote the
            checkpoint.
    """
    group = checkpoints.group
    if group.world_size == 1:
        loaded = latest(checkpoints.folder)
    else:
        loaded = latest(checkpoints.folder) if group.is_main else LoadedCheckpoint()
        state, path, damaged = group.broadcast(
            (loaded.state, str(loaded.path) if loaded.path else None, loaded.damaged)
        )
        loaded = LoadedCheckpoint(state, Path(path) if path else None, damaged)
    if loaded.state is None:
        return loaded
    states = loaded.state.get("ranks", [loaded.state])
    if len(states) != group.world_size:
        raise UserError(
            f"{loaded.path} was written by {counted(len(states), 'process')}, but there are now "
            f"{group.world_size}. Each process has its own random numbers, so the run cannot be "
            "continued exactly.",
            f"Use {counted(len(states), 'process')}, or delete {checkpoints.folder} to start "
            "again.",
        )
    own = states[group.rank]
    written_on, device = (
        "cpu" if own["random"]["cuda"] is None else "cuda",
        torch.device(checkpoints.device).type,
    )
    if written_on != device:
        raise UserError(
            f"{loaded.path} was written on {written_on}, and this run is on {device}. They draw "
            "different random numbers, so the run cannot be continued exactly.",
            f"Use --device {written_on}, or delete {checkpoints.folder} to start again.",
        )
    state = {
        **loaded.state,
        "learner": {**loaded.state["learner"], **own["learner"]},
        "random": own["random"],
    }
    return LoadedCheckpoint(state, loaded.path, loaded.damaged)


def clear(folder: Path) -> None:
    """Remove all checkpoints."""
    for path in _files(folder):
        path.unlink(missing_ok=True)


def random_state(device: str) -> dict[str, Any]:
    """Return the states of the global generators of torch, numpy and Python.

    numba's generator is not included: its state cannot be read, and nothing uses it, because
    loaders derive random numbers from hashes.

    Args:
        device: Device whose generator is included.
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
    """Restore what `random_state` returned."""
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
        raise ValueError("its checksum does not match")
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.pt") if re.fullmatch(r"\d{9}\.pt", path.name))
