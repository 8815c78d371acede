"""Check the paths of subsets and scores before a command writes them."""

import re
from pathlib import Path


def check_new(file: Path) -> None:
    """Check the path of a subset before any work is done for it.

    Raises:
        UserError: the file exists, does not end in .yaml or .yml, or its name cannot name a subset.
    """
    from pydantic import ValidationError

    from writers.errors import UserError
    from writers.subset.spec import SubsetSpec

    _check_absent(file, ".yaml", ".yml")
    try:
        SubsetSpec(name=file.stem)
    except ValidationError as error:
        raise UserError(
            f"{file.name} cannot name a subset.", f"Choose another name: {file_name(file.stem)}."
        ) from error


def check_new_scores(file: Path) -> None:
    """Check the path of a table of scores before any work is done for it.

    Raises:
        UserError: the file exists, or does not end in .csv.
    """
    _check_absent(file, ".csv")


def _check_absent(file: Path, *endings: str) -> None:
    """Raise UserError if a file exists, or has none of the endings."""
    from writers.errors import UserError

    if file.suffix not in endings:
        raise UserError(
            f"{file} does not end in {endings[0]}.", f"Name it {file.stem}{endings[0]}."
        )
    if file.exists():
        raise UserError(f"{file} already exists.", "Remove it, or choose another name.")


def file_name(text: str) -> str:
    """Convert a text to the name of a YAML file whose stem is valid as the name of a subset."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[-90:].lstrip("_.-")
    return f"{stem or 'subset'}.yaml"
