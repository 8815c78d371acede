"""Rankings of classes from hardest to easiest, with accuracies and the rule for ties."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from writers import names
from writers.errors import UserError
from writers.regular_file import fault_of
from writers.subset.lists import read_numbers

FOLDER = Path(__file__).parents[1] / "subsets"


@dataclass(frozen=True)
class Ranking:
    """Classes, hardest first, and their accuracies in 0..1."""

    classes: tuple[str, ...]
    accuracy: Mapping[str, float]
    source: str  # description of the model and images that gave the accuracies
    tie_break: str  # rule that orders equal accuracies

    def restricted_to(self, classes: Collection[str]) -> "Ranking":
        """Return the ranking without all other classes."""
        return replace(self, classes=tuple(name for name in self.classes if name in classes))


def rank(
    accuracy: Mapping[str, float],
    tie_breaks: Sequence[Mapping[str, float]] = (),
    *,
    source: str,
    tie_break: str,
) -> Ranking:
    """Order classes by accuracy, then by each of `tie_breaks` (lower is harder), then by name.

    `tie_break` describes `tie_breaks`. The order by name is added to this description.
    """

    def place(name: str) -> tuple[float | str, ...]:
        return (accuracy[name], *(values[name] for values in tie_breaks), name)

    return Ranking(
        tuple(sorted(accuracy, key=place)),
        accuracy,
        source,
        f"{tie_break}, then class name".lstrip(", "),
    )


def read_ranking(name_or_path: str) -> Ranking:
    """Read a ranking of the package by name, or a CSV file.

    The columns are `class`, `accuracy` and optional numbers that break ties, in this order. Lines
    that begin with # are comments.

    Raises:
        UserError: there is no such ranking, its columns have other names, or a line is not a class
            with numbers (the message has the line).
    """
    path = ranking_file(name_or_path)

    def check(header: Sequence[str]) -> None:
        if list(header[:2]) != ["class", "accuracy"]:
            raise UserError(
                f"{path}: the first line must name the columns class,accuracy[,tie-break ...], "
                f"not {','.join(header) or 'nothing'}."
            )

    header, numbers = read_numbers(path, check)
    if not numbers:
        raise UserError(f"{path} ranks no class.")
    accuracy, *tie_breaks = (
        dict(zip(numbers, column, strict=True)) for column in zip(*numbers.values(), strict=True)
    )
    return rank(accuracy, tie_breaks, source=name_or_path, tie_break=", then ".join(header[2:]))


def ranking_file(name_or_path: str) -> Path:
    """Return the file of a ranking. Raises UserError with similar names if there is none."""
    packaged = FOLDER / f"{name_or_path}.csv"
    if fault_of(packaged) is None and packaged.is_file():
        return packaged
    if (fault := fault_of(name_or_path)) is not None:
        raise UserError(fault)
    own = Path(name_or_path).expanduser()
    if own.is_file():
        return own
    raise names.unknown("ranking", name_or_path, [path.stem for path in FOLDER.glob("*.csv")])
