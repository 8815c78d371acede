"""Find the line of a recipe's file for a mistake that was found after subsets were expanded.

A place is a path of keys and indices, such as ("subsets", 0, "name"). An entry with `each` stands
for several subsets (`harness.config.subset_axes`). So after the expansion, a subset's index is not
the index of its entry in the file.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from harness.config import subset_axes
from harness.config.data import DataSettings
from harness.config.explain import Place
from writers.errors import UserError
from writers.settings_errors import lower_first

Origin = Callable[[Place], str]  # place in the recipe -> file:line


@dataclass(frozen=True)
class Places:
    """Convert places in the expanded recipe to places in the recipe as written.

    Attributes:
        origin: returns file and line of a place in the recipe as written.
        made_from: for each subset after the expansion, the index of its entry in the recipe as
            written. None means that nothing was expanded.
    """

    origin: Origin
    made_from: Sequence[int] | None = None

    def lines(self, mistakes: Iterable[tuple[Place, str]]) -> list[str]:
        """Format each mistake as one line that begins with its file and line.

        Equal lines are listed once. If subsets of the same entry have mistakes at the same place,
        only the first one is listed.
        """
        found: dict[object, str] = {}
        for place, what in mistakes:
            written = self._written(place)
            dotted = ".".join(map(str, written))
            text = " ".join(f"{dotted}: {what}".splitlines() if dotted else what.splitlines())
            line = f"{self.origin(written)}: {text}"
            found.setdefault(written if self._is_of_several(written) else line, line)
        return list(found.values())

    def _is_of_several(self, written: Place) -> bool:
        made_from = self.made_from or ()
        return written[:1] == ("subsets",) and len(written) > 1 and made_from.count(written[1]) > 1

    def _written(self, place: Place) -> Place:
        is_subset = len(place) > 1 and place[0] == "subsets" and isinstance(place[1], int)
        if self.made_from is None or not is_subset:
            return place
        return ("subsets", self.made_from[int(place[1])], *place[2:])


def with_subsets_of_each(values: dict[str, Any], origin: Origin) -> tuple[dict[str, Any], Places]:
    """Expand entries with `each`; return the new values, and `Places` for messages about them.

    Raises:
        UserError: an `each` is invalid; see `subset_axes.expand`.
    """
    entries = values.get("subsets")
    if not isinstance(entries, list):
        return values, Places(origin)
    targets = []
    any_each = any(isinstance(entry, dict) and subset_axes.EACH in entry for entry in entries)
    given = values.get("targets") if any_each else None
    for target in given if isinstance(given, list) else ():
        try:
            targets.append(DataSettings.model_validate_json(json.dumps(target)).label)
        except (ValidationError, UserError):
            continue  # the check of the targets reports it
    expanded: list[Any] = []
    made_from: list[int] = []
    for index, entry in enumerate(entries):
        try:
            made = subset_axes.expand(entry, targets)
        except UserError as error:
            mistake = (("subsets", index), lower_first(error.message))
            raise UserError(Places(origin).lines([mistake])[0]) from error
        expanded += made
        made_from += [index] * len(made)
    return {**values, "subsets": expanded}, Places(origin, made_from)
