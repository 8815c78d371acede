"""Collect the validation scores of every configuration that a transfer tried."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any

from harness.report.data.collection import Collection
from harness.report.data.records import GridRow
from harness.report.data.rows import chosen_setting, model_axes
from harness.runner.result import Result


@dataclass(frozen=True)
class Grid:
    """Hyper-parameter configurations that one transfer tried.

    Attributes:
        shared: row with the fields that all rows of the grid share; its other fields are None,
            False or empty.
        entries: settings, scores and diagnostics of each configuration, as in the result.
        chosen: grid axis -> selected value.
        metric: the target's metric.
    """

    shared: GridRow
    entries: Sequence[Mapping[str, Any]]
    chosen: Mapping[str, object]
    metric: str

    def points(self) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
        """Iterate over setting and scores of each configuration; no scores if it diverged."""
        for entry in self.entries:
            # An entry also has scores and diagnostics. `chosen` has the names of the grid's axes.
            setting = {axis: value for axis, value in entry.items() if axis in self.chosen}
            yield setting, entry["val"] or {}

    def rows(self) -> list[GridRow]:
        """Return a row per configuration."""
        return [
            self.shared._replace(
                lr=setting.get("lr"),
                setting=setting,
                val_top1=val.get("top1"),
                val_mean_per_class=val.get("mean_per_class"),
                val_map11=val.get("map11"),
                val_map50_11=val.get("map50_11"),
                val_score=val.get(self.metric),
                chosen=setting == self.chosen,
            )
            for setting, val in self.points()
        ]


class GridRows(Sized, Iterable[GridRow]):
    """Rows of the grids of all transfers.

    The rows are made when they are read: a recipe may have a million.
    """

    def __init__(self, results: Collection) -> None:
        """Keep the results, without making rows."""
        self._results, self._transfers = results, results.transfers

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(len(result.metrics["grid"]) for result in self._transfers)

    def __iter__(self) -> Iterator[GridRow]:
        """Iterate over the rows of all transfers."""
        return chain.from_iterable(grid.rows() for grid in self.grids())

    def grids(self) -> Iterator[Grid]:
        """Iterate over the grids of all transfers."""
        return map(self._grid_of, self._transfers)

    def groups(self, min_axes: int) -> Iterator[tuple[str, str, list[GridRow]]]:
        """Iterate over target, method and rows; only of grids with at least `min_axes` axes."""
        groups: dict[tuple[str, str], list[Result]] = {}
        for result in self._transfers:
            if len(chosen_setting(result.metrics)) >= min_axes:
                place = result.axes["target"], result.axes["method"]
                groups.setdefault(place, []).append(result)
        for place, group in groups.items():
            yield *place, [row for result in group for row in self._grid_of(result).rows()]

    def _grid_of(self, result: Result) -> Grid:
        shared = GridRow(
            **model_axes(self._results, result),
            target=result.axes["target"],
            method=result.axes["method"],
            lr=None,
            val_top1=None,
            val_mean_per_class=None,
            chosen=False,
            per_class=result.axes.get("per_class"),
            steps=result.axes.get("steps"),
            key=result.key,
        )
        metrics = result.metrics
        return Grid(shared, metrics["grid"], chosen_setting(metrics), metrics["metric"])
