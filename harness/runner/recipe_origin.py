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
from harness.config.recipe_files import find
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
    file = runs / "recipes" / f"{name}.origin.json"
    path, naming = find(path_or_name).resolve(), [text for text in overrides if _names(text)]
    first, first_naming = _recorded(file)
    if first is not None and first != path:
        other = _read(first, first_naming)
        if other is not None and other.name == name:
            own = _read(path, naming)
            if own is None or recipe_file(own) != recipe_file(other):
                here = Path.cwd()
                shown = first.relative_to(here) if first.is_relative_to(here) else first
                raise UserError(
                    f"{path_or_name} and {shown} are two recipes with the name {name}. Their "
                    f"reports would replace each other in {runs / 'reports' / name}.",
                    "Change `name:` in one of them. Finished stages keep their results.",
                )
    if (first, first_naming) != (path, naming):
        # If the folder cannot be written, the report or the stages raise the error.
        with suppress(OSError):
            write_json(file, {"file": str(path), "set": naming})


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
