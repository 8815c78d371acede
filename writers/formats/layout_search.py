"""Find the parts of a dataset's official layout below a given folder, and draw splits."""

from collections.abc import Sequence
from pathlib import Path

from writers.errors import UserError
from writers.source import Example, SplitSettings, carve
from writers.text_names import counted

DEPTHS = ("", "*/", "*/*/")  # the folder itself, and folders added by archives and torchvision


def find(path: Path, name: str) -> Path | None:
    """Find the file or folder `name`, which may have several parts, at or below `path`.

    Searches at most two folders deep.
    """
    if path.name == name and path.exists():
        return path
    return next(
        (match for depth in DEPTHS if path.is_dir() for match in sorted(path.glob(depth + name))),
        None,
    )


def need(path: Path, name: str, hint: str) -> Path:
    """Like `find`, but raise UserError if it is missing."""
    match = find(path, name)
    if match is None:
        raise UserError(f"{path} has no {name}.", hint)
    return match


def shares(val: float, test: float) -> SplitSettings:
    """Draw a fixed split that does not depend on the seed and fractions of the user.

    For datasets without splits whose benchmark uses counts in another library's file order.
    """
    return SplitSettings(val=val, test=test, seed=0)


def halve(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Draw two fixed halves, class by class."""
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
