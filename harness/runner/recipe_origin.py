"""Keep two recipe files with one name from replacing each other's report.

Reports, requests to cancel and logs of trackers are in folders with the recipe's name. A run or a
report records the file of the recipe in `$HARNESS_RUNS/recipes/<name>.origin.json`.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.config.load import read
from harness.config.recipe import Recipe
from harness.config.recipe_files import FOLDER, find, short
from harness.runner.provenance import recipe_file
from harness.system.atomic_write import write_json
from harness.system.folders import user_cache
from writers.errors import UserError

_NAMING = ("name", "scale")  # settings that change a recipe's name


def claim(path_or_name: str, overrides: Sequence[str], name: str, runs: Path) -> None:
    """Record a recipe file as the one with this name, unless another file has the name already.

    A recorded file may have been edited, moved or deleted since. It keeps the name only if it still
    has this name and sets other values.

    Args:
        path_or_name: the recipe, as for `read`.
        overrides: settings from --set; those that do not change the name are ignored.
        name: name of the recipe with the overrides.
        runs: folder of runs.

    Raises:
        UserError: another recipe file has the name.
    """
    if (other := namesake(path_or_name, overrides, name, runs)) is not None:
        raise UserError(
            f"{path_or_name} and {other} are two recipes with the name {name}. Their "
            f"reports would replace each other in {runs / 'reports' / name}.",
            "Change `name:` in one of them. Finished stages keep their results.",
        )
    file = _file_of(name, runs)
    path, naming = find(path_or_name).resolve(), [text for text in overrides if _names(text)]
    if _recorded(file) != (path, naming):
        # If the folder cannot be written, the report or the stages raise the error.
        with suppress(OSError):
            write_json(file, {"file": str(path), "set": naming})


def namesake(path_or_name: str, overrides: Sequence[str], name: str, runs: Path) -> str | None:
    """Return another recipe file that has the name, as `claim` refuses it; None if there is none.

    The arguments are those of `claim`. The path is relative to the working directory if it is below
    it.
    """
    path = find(path_or_name).resolve()
    first, first_naming = _recorded(_file_of(name, runs))
    if first is None or first == path:
        return None
    other = _read(first, first_naming)
    if other is None or other.name != name:
        return None
    own = _read(path, [text for text in overrides if _names(text)])
    if own is not None and recipe_file(own) == recipe_file(other):
        return None
    return short(first)


def recorded(runs: Path) -> list[tuple[str, list[str]]]:
    """List the recipes of runs and reports: name or path, and the settings that name it.

    Recipes whose file no longer exists are left out.
    """
    records = (_recorded(file) for file in sorted((runs / "recipes").glob("*.origin.json")))
    return [
        (path.stem if path.parent == FOLDER.resolve() else short(path), naming)
        for path, naming in records
        if path is not None and path.is_file()
    ]


def _file_of(name: str, runs: Path) -> Path:
    return runs / "recipes" / f"{name}.origin.json"


def _names(override: str) -> bool:
    return override.partition("=")[0].strip() in _NAMING


def _recorded(file: Path) -> tuple[Path | None, list[str]]:
    """Read the file and the overrides of a name; (None, []) if there is no valid record."""
    try:
        record = json.loads(file.read_bytes())
        return Path(record["file"]), list(map(str, record["set"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None, []


def _read(path: Path, naming: Sequence[str]) -> Recipe | None:
    """Read a recipe; None if the file is missing or is no valid recipe any more."""
    try:
        return read(path, naming, user_cache())
    except UserError:
        return None
