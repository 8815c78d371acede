"""Link a result to its recipe, its input files and its output files."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.runner.result import FILE_NAME, Result
from harness.system.atomic_write import write_atomically

if TYPE_CHECKING:  # workers import this module, but never read a recipe
    from harness.config.recipe import Recipe
    from harness.matrix.expand import Matrix

# Patterns of the files in a stage's folder that are hashed: weights, features, predictions.
OUTPUTS = ("*.pt", "*.npz", "*.safetensors")


def keep_recipe(recipe: "Recipe", runs: Path) -> str:
    """Write the recipe's resolved text, unless it exists already.

    The text includes all settings from `base`, presets, the scale and --set, so that `harness run`
    reads it as the same recipe. Results refer to the file and do not contain the text, because
    class lists can make it ten times as long as a result.

    Returns:
        Path of the file, relative to `runs`.
    """
    name, text = recipe_file(recipe)
    if not (runs / name).exists():
        write_atomically(runs / name, text)
    return name


def recipe_file(recipe: "Recipe") -> tuple[str, bytes]:
    """Return the name of a recipe's file, relative to the folder of runs, and its content.

    Recipes that set the same values have the same file.
    """
    # The recipe's name includes the scale.
    json_text = recipe.model_dump_json(exclude_unset=True, exclude={"scale"}, indent=1)
    text = f"{json_text}\n".encode()
    return f"recipes/{recipe.name}-{hashlib.sha256(text).hexdigest()[:20]}.json", text


def of_report(matrix: "Matrix", runs: Path) -> str:
    """Hash everything that determines a report: the recipe, states of stages, the report's code."""
    digest = hashlib.sha256(matrix.recipe.model_dump_json().encode())
    code = (Path(__file__).parents[1] / "report").rglob("*.*")
    for path in sorted(path for path in code if path.suffix != ".pyc"):
        digest.update(f"{path.name} {path.stat().st_mtime_ns}\n".encode())
    for stage in matrix.stages:
        folder = f"{runs}/stages/{stage.kind}/{stage.key}"
        changed_at = _changed_at(f"{folder}/{FILE_NAME}") or _changed_at(f"{folder}/error.txt")
        digest.update(f"{stage.name} {stage.key} {changed_at}\n".encode())
    return digest.hexdigest()


def outputs(folder: Path, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return file -> sha256 for the files in a stage's folder that match OUTPUTS.

    Adds the `.beton` files that a stage wrote; their paths and digests are read from `metrics`.
    """
    betons = {
        split["path"]: split["sha256"]
        for split in metrics.get("splits", {}).values()
        if "sha256" in split
    }
    files = sorted(path for pattern in OUTPUTS for path in folder.glob(pattern))
    return betons | {path.name: _sha256(path) for path in files}


def inputs(needs: Mapping[str, Result]) -> dict[str, str]:
    """Map role/file to sha256 for the outputs of the needed stages, read from their results."""
    return {
        f"{role}/{file}": digest
        for role, need in needs.items()
        for file, digest in need.outputs.items()
    }


def _changed_at(file: str) -> int:
    """Modification time in nanoseconds; 0 if the file does not exist."""
    try:
        # Do not use Path: creating ten thousand paths would double the time of the hash.
        return os.stat(file).st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
