"""Keep the results of 100,000 stages in memory: share what is equal, pack what is long."""

import marshal
from collections.abc import Iterator, Sequence
from typing import Any, overload

from harness.matrix.stage import Stage
from harness.runner.result import Result


class PackedEntries(Sequence[dict[str, Any]]):
    """A list of plain dictionaries in a tenth of its memory; they are made again on each read."""

    def __init__(self, entries: Sequence[dict[str, Any]]) -> None:
        """Pack entries of plain JSON."""
        self._packed, self._length = marshal.dumps(list(entries)), len(entries)

    def __len__(self) -> int:
        """Return the number of entries."""
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over new copies of the entries."""
        return iter(marshal.loads(self._packed))

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a new copy of one entry, or of several."""
        entries: list[dict[str, Any]] = marshal.loads(self._packed)
        return entries[index]


class Compactor:
    """Replaces parts of results by equal ones that exist already."""

    def __init__(self) -> None:
        """Start without known environments."""
        self._environments: dict[str, dict[str, Any]] = {}

    def compact(self, record: Result, stage: Stage) -> Result:
        """Return the record with the settings, axes and name of its stage.

        The settings are equal, because they are part of the key. The axes and the name may be
        those of another recipe.
        """
        text = str(record.environment)
        metrics = record.metrics
        if "grid" in metrics:
            metrics = {**metrics, "grid": PackedEntries(metrics["grid"])}
        return record.model_copy(
            update={
                "axes": stage.axes,
                "name": stage.name,
                "config": stage.config,
                "environment": self._environments.setdefault(text, record.environment),
                "metrics": metrics,
            }
        )
