"""Packaged subset files and class lists, without parsing subset specifications."""

from functools import cache
from pathlib import Path

from writers import names
from writers.errors import UserError

FOLDER = Path(__file__).parents[1] / "subsets"


def available() -> list[str]:
    """List the subsets of the package."""
    return sorted(path.stem for path in FOLDER.iterdir() if path.suffix in (".txt", ".yaml"))


def file_of(name: str) -> Path:
    """Return the file of a subset of the package. Raises UserError with similar names."""
    for file in (FOLDER / f"{name}.yaml", FOLDER / f"{name}.txt"):
        if file.is_file():
            return file
    raise names.unknown("subset", name, ["all", *available()])


def read_class_list(path: Path) -> tuple[str, ...]:
    """Read a text file with one class per line. Empty lines and `#` comments are skipped.

    Raises:
        UserError: the file cannot be read as UTF-8 text.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}.") from error
    return tuple(line for line in lines if line and not line.startswith("#"))


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return ILSVRC 2012's 1000 classes in label order."""
    return read_class_list(FOLDER / "in1000.txt")
