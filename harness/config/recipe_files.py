"""Find the files of recipes, by path or by name."""

from pathlib import Path

from writers import names
from writers.errors import UserError
from writers.regular_file import fault_of

FOLDER = Path(__file__).resolve().parents[2] / "recipes"  # recipes that are given by name


def find(path_or_name: str | Path) -> Path:
    """Find a recipe's file.

    Raises:
        UserError: there is no such file or recipe. The message names similar recipes.
    """
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    if path.is_dir() and path.name not in available():
        inside = next((str(file) for file in sorted(path.glob("*.y*ml"))), "recipe.yaml")
        raise UserError(
            f"{path_or_name} is a folder, not a recipe.", f"Name a file, such as {inside}."
        )
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        hint = f"Recipes in {FOLDER}: {', '.join(available())}."
        near = _files_like(path) + names.nearest(path.stem, available())
        raise UserError(
            fault_of(path) or f"There is no recipe {path}.",
            f"Did you mean {' or '.join(near)}?" if near else hint,
        )
    if path.name not in available():
        if files := _files_like(path):
            raise UserError(
                f"There is no recipe named {path.name!r}.", f"Did you mean {' or '.join(files)}?"
            )
        raise names.unknown("recipe", path.name, available())
    return FOLDER / f"{path.name}.yaml"


def _files_like(path: Path) -> list[str]:
    """List the recipes in the folder of `path` whose names are similar to its name."""
    files = {
        file.stem: str(file)
        for suffix in ("yml", "yaml")
        for file in sorted(path.parent.glob(f"*.{suffix}"))
    }
    return [files[stem] for stem in names.nearest(path.stem, sorted(files))]


def available() -> list[str]:
    """List the names of the recipes that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def short(path: Path) -> str:
    """Return the path relative to the current folder, if the path is below that folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
