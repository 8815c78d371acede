"""Finding the parts of a dataset's official layout below the folder that a person names, and carving its splits."""

from collections.abc import Sequence
from pathlib import Path

from writers.errors import UserError
from writers.source import Example, SplitSettings, carve

DEPTHS = ("", "*/", "*/*/")  # the folder itself, and what archives and torchvision wrap around it


def find(path: Path, name: str) -> Path | None:
    """The file or folder `name` (it may have parts) at `path`, in it, or up to two folders deeper."""
    if path.name == name and path.exists():
        return path
    return next(
        (found for depth in DEPTHS if path.is_dir() for found in sorted(path.glob(depth + name))),
        None,
    )


def need(path: Path, name: str, hint: str) -> Path:
    """The same. Raises UserError where it is not there."""
    found = find(path, name)
    if found is None:
        raise UserError(f"{path} has no {name}.", hint)
    return found


def shares(val: float, test: float) -> SplitSettings:
    """A split that belongs to the dataset and is the same for everyone, whatever seed and shares a person gives.

    For sets that come without splits, where the benchmark's own are counts in another library's order of files.
    """
    return SplitSettings(val=val, test=test, seed=0)


def halve(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Two halves, class by class, the same for everyone."""
    splits = carve(list(examples), [], [], shares(0.5, 0))
    return splits["val"], splits["train"]


def check_labels(labels: Sequence[int], num_classes: int, where: str) -> None:
    """Raises UserError where a label is none of 0..K-1."""
    for number, label in enumerate(labels):
        if not 0 <= label < num_classes:
            raise UserError(
                f"{where}: label {label} of image {number} is none of its {num_classes} classes.",
                "Fetch it again.",
            )
