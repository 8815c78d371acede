"""What ties a result to its recipe, to the files that it was computed from, and to those that it left for others."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config.recipe import Recipe
from harness.matrix.expand import Matrix
from harness.runner.result import FILE_NAME, Result
from harness.system.atomic_write import write_atomically

OUTPUTS = ("*.pt", "*.npz", "*.safetensors")  # of a stage's folder: weights, features, predictions


def keep_recipe(recipe: Recipe, runs: Path) -> str:
    """Keep the recipe's resolved text, once for all that it asks for; returns the file, relative to `runs`.

    All that `base`, presets, the scale and --set gave is in it, so that `harness run` reads it as the same recipe. Results name
    it and do not hold it: with its class lists it can be ten times as long as they are.
    """
    text = (
        recipe.model_dump_json(exclude_unset=True, exclude={"scale"}, indent=1) + "\n"
    ).encode()  # its name says the scale
    name = f"recipes/{recipe.name}-{hashlib.sha256(text).hexdigest()[:20]}.json"
    if not (runs / name).exists():
        write_atomically(runs / name, text)
    return name


def of_report(matrix: Matrix, runs: Path) -> str:
    """A digest of all that a report of the matrix is made from: the recipe, the state of every stage, the report's code."""
    known = hashlib.sha256(matrix.recipe.model_dump_json().encode())
    code = (Path(__file__).parents[1] / "report").rglob("*.*")
    for path in sorted(path for path in code if path.suffix != ".pyc"):
        known.update(f"{path.name} {path.stat().st_mtime_ns}\n".encode())
    for stage in matrix.stages:
        folder = f"{runs}/stages/{stage.kind}/{stage.key}"
        known.update(
            f"{stage.name} {stage.key} {_changed_at(f'{folder}/{FILE_NAME}') or _changed_at(f'{folder}/error.txt')}\n".encode()
        )
    return known.hexdigest()


def outputs(folder: Path, metrics: Mapping[str, Any]) -> dict[str, str]:
    """File -> sha256, of what a stage has left: its files, and the betons that its metrics name."""
    betons = {
        split["path"]: split["sha256"]
        for split in metrics.get("splits", {}).values()
        if "sha256" in split
    }
    files = sorted(path for pattern in OUTPUTS for path in folder.glob(pattern))
    return betons | {path.name: _sha256(path) for path in files}


def inputs(needs: Mapping[str, Result]) -> dict[str, str]:
    """role/file -> sha256, of what the needed stages have left; they hashed it when they wrote it."""
    return {
        f"{role}/{file}": digest
        for role, need in needs.items()
        for file, digest in need.outputs.items()
    }


def _changed_at(file: str) -> int:
    """Nanoseconds; 0: it is not there."""
    try:
        return os.stat(file).st_mtime_ns  # noqa: PTH116     # ten thousand Paths would take as long as all the rest
    except OSError:
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
