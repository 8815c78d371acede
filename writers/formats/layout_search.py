"""Find the parts of a dataset's official layout below a given folder, and draw splits."""

from collections.abc import Sequence
from pathlib import Path

from writers.errors import UserError
from writers.formats.files import is_system_folder
from writers.source import Example, SplitSettings, carve
from writers.text_names import counted

DEPTHS = ("", "*/", "*/*/")  # depths to search: archives and torchvision add up to two folders


def find(path: Path, name: str) -> Path | None:
    """Find the file or folder `name` at or below `path`, at most two folders deep.

    `name` may be a path of several parts. Hidden and system folders, such as a trash or __MACOSX,
    are not entered. Returns None if it is not found.
    """
    if path.name == name and path.exists():
        return path
    return next(
        (
            match
            for depth in DEPTHS
            if path.is_dir()
            for match in sorted(path.glob(depth + name))
            if not any(map(is_system_folder, match.relative_to(path).parts[:-1]))
        ),
        None,
    )


def need(path: Path, name: str, hint: str) -> Path:
    """Find a file or folder as `find` does. Raises UserError if it is missing."""
    match = find(path, name)
    if match is None:
        raise UserError(f"{path} has no {name}.", hint)
    return match


def shares(val: float, test: float) -> SplitSettings:
    """Return settings for a fixed split, which does not depend on the user's seed and fractions.

    For datasets without official splits: VTAB takes their first images in the file order of
    TensorFlow Datasets; here images are drawn with a fixed seed instead.
    """
    return SplitSettings(val=val, test=test, seed=0)


def halve(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Draw two halves, class by class, with a fixed seed."""
    splits = carve(list(examples), [], [], shares(0.5, 0))
    return splits["val"], splits["train"]


def check_labels(labels: Sequence[int], num_classes: int, where: str) -> None:
    """Raise UserError if a label is not in 0..K-1."""
    for number, label in enumerate(labels):
        if not 0 <= label < num_classes:
            raise UserError(
                f"{where}: label {label} of image {number} is outside its "
                f"{counted(num_classes, 'class')}.",
                "Download it again.",
            )
