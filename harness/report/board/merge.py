"""Merge the rows of a board (a static leaderboard) from several recipes and people.

The result does not depend on their order.

* If two files have the same measurement, the copy with a name in `by` is kept, or else the copy
  with more values.
* Another measurement of the same model, task and seed is a repetition: both rows are kept, their
  mean counts as one run, and the board marks runs whose scores differ.
* If two rows give different facts for the same digest, they cannot both be true. This is an error.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.report.board.exported import Export
from harness.report.board.row import BoardRow, measurement, num_unknown, sort_key
from writers.errors import UserError

_MODEL_FACTS = ("pretrained_here", "eps", "num_source_classes", "num_parameters", "subset_digest")
_TASK_FACTS = ("protocol_digest", "kind", "metric", "num_test_images", "num_target_classes")


@dataclass(frozen=True)
class Merged:
    """Rows of all exports, sorted.

    Attributes:
        num_duplicates: number of rows that were dropped as copies of other rows.
    """

    rows: tuple[BoardRow, ...]
    recipes: Mapping[str, Any]
    num_duplicates: int


def merge(exports: Iterable[Export]) -> Merged:
    """Merge exports.

    Raises:
        UserError: two rows give different facts for the same digest.
    """
    rows: dict[tuple[object, ...], BoardRow] = {}
    recipes: dict[str, Any] = {}
    seen_models: dict[str, tuple[BoardRow, str]] = {}
    seen_tasks: dict[str, tuple[BoardRow, str]] = {}
    num_duplicates = 0
    for export in exports:
        recipes |= export.recipes
        for number, row in enumerate(export.rows, start=1):
            place = f"{export.name}: row {number}"
            _check(seen_models, "model", row.model_digest, row, place, _MODEL_FACTS)
            _check(seen_tasks, "task", row.task_digest, row, place, (*_TASK_FACTS, "test_sha256"))
            key = measurement(row)
            if (other := rows.get(key)) is not None:
                num_duplicates += 1
                row = min(row, other, key=_preference)
            rows[key] = row
    ordered = tuple(sorted(rows.values(), key=sort_key))
    used = {row.recipe for row in ordered}
    return Merged(
        ordered, {name: recipes[name] for name in sorted(recipes) if name in used}, num_duplicates
    )


def _check(
    seen: dict[str, tuple[BoardRow, str]],
    kind: str,
    digest: str,
    row: BoardRow,
    place: str,
    facts: tuple[str, ...],
) -> None:
    """Compare the facts of a row with those of the first row that has the same digest.

    Raises:
        UserError: the facts differ.
    """
    first, first_place = seen.setdefault(digest, (row, place))
    for name in facts:
        if getattr(first, name) != getattr(row, name):
            raise UserError(
                f"{place}: {name} of {kind} {digest} contradicts {first_place}.",
                "One of them was edited or damaged. Leave that file out.",
            )


def _preference(row: BoardRow) -> tuple[object, ...]:
    """Sort key that puts the copy to keep first; equal for equal rows only."""
    return (not row.by, num_unknown(row), *sort_key(row))
