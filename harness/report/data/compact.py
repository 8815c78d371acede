"""Keep the results of 100,000 stages in memory: share equal parts, and pack long lists."""

import marshal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from harness.matrix.stage import Stage
from harness.runner.result import Result


class PackedEntries(Sequence[dict[str, Any]]):
    """A list of plain dictionaries, packed into bytes; each read makes new copies."""

    def __init__(self, entries: Sequence[dict[str, Any]]) -> None:
        """Pack entries of plain JSON."""
        # marshal writes equal keys once. Compression would halve the memory again, but would take
        # more time than all tables of the report.
        self._packed = marshal.dumps(list(entries))
        self._length = len(entries)
        # Count now, because unpacking a million entries takes a second.
        self.num_diverged = _num_diverged(entries)

    def __len__(self) -> int:
        """Return the number of entries."""
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over new copies of the entries."""
        return iter(self._entries())

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a new copy of one entry, or of several."""
        return self._entries()[index]

    @property
    def num_bytes(self) -> int:
        """Size of the packed entries in bytes."""
        return len(self._packed)

    def _entries(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = marshal.loads(self._packed)
        return entries


def num_diverged(entries: Sequence[dict[str, Any]]) -> int:
    """Count the configurations of a grid without a score."""
    if isinstance(entries, PackedEntries):
        return entries.num_diverged
    return _num_diverged(entries)


def _num_diverged(entries: Iterable[dict[str, Any]]) -> int:
    return sum("val" in entry and entry["val"] is None for entry in entries)


class Compactor:
    """Replaces parts of results by equal objects of results that were compacted before."""

    def __init__(self) -> None:
        """Start without objects to share."""
        self._environments: dict[str, dict[str, Any]] = {}
        self._names: dict[tuple[str, ...], list[str]] = {}

    def compact(self, record: Result, stage: Stage) -> Result:
        """Return the record with the settings, axes and name of its stage.

        The settings of both are equal, because they are part of the key. The record may have the
        axes and the name of another recipe.
        """
        text = str(record.environment)
        metrics = {name: self._shared(value) for name, value in record.metrics.items()}
        if "grid" in metrics:
            metrics["grid"] = PackedEntries(metrics["grid"])
        return record.model_copy(
            update={
                "axes": stage.axes,
                "name": stage.name,
                "config": stage.config,
                "environment": self._environments.setdefault(text, record.environment),
                "metrics": metrics,
            }
        )

    def _shared(self, value: Any) -> Any:
        """Return the first list that equals `value`, a list of strings; other values unchanged."""
        if isinstance(value, list) and value and all(type(item) is str for item in value):
            return self._names.setdefault(tuple(value), value)
        return value
