"""Rankings of classes from hardest to easiest, with accuracies and the rule for ties."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from writers import names
from writers.errors import UserError
from writers.subset.lists import read_rows

FOLDER = Path(__file__).parents[1] / "subsets"


@dataclass(frozen=True)
class Ranking:
    """Classes, hardest first, and their accuracies as fractions."""

    classes: tuple[str, ...]
    accuracy: Mapping[str, float]
    source: str  # model and images of the accuracies
    tie_break: str  # rule that orders equal accuracies

    def restricted_to(self, classes: Collection[str]) -> "Ranking":
        """Restrict the ranking to these classes."""
        return replace(self, classes=tuple(name for name in self.classes if name in classes))


def rank(
    accuracy: Mapping[str, float],
    tie_breaks: Sequence[Mapping[str, float]] = (),
    *,
    source: str,
    tie_break: str,
) -> Ranking:
    """Order classes by accuracy, then by each of `tie_breaks` (lower is harder), then by name.

    `tie_break` describes them; the order by name is appended.
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

    The header has `class`, `accuracy` and optional further numeric columns, the tie-breaks in their
    order. Lines that begin with # are comments.

    Raises:
        UserError: names the line that is not a class with numbers.
    """
    path = ranking_file(name_or_path)
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    if header[:2] != ["class", "accuracy"]:
        raise UserError(
            f"{path}: the first line must name the columns class,accuracy[,tie-break ...], "
            f"not {','.join(header) or 'nothing'}."
        )
    values: list[dict[str, float]] = [{} for _ in header[1:]]
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{path}:{number}: {len(row)} columns, and the header has {len(header)}."
            )
        if row[0] in values[0]:
            raise UserError(f"{path}:{number}: class {row[0]} is listed twice.")
        for column, text in zip(values, row[1:], strict=True):
            column[row[0]] = _number(text, f"{path}:{number}")
    if not values[0]:
        raise UserError(f"{path} ranks no class.")
    return rank(values[0], values[1:], source=name_or_path, tie_break=", then ".join(header[2:]))


def _number(text: str, where: str) -> float:
    """Parse a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: '{text}' is not a number.")
    return value


def ranking_file(name_or_path: str) -> Path:
    """Return the file of a ranking. Raises UserError with similar names if there is none."""
    for path in (FOLDER / f"{name_or_path}.csv", Path(name_or_path).expanduser()):
        if path.is_file():
            return path
    raise names.unknown("ranking", name_or_path, [path.stem for path in FOLDER.glob("*.csv")])
