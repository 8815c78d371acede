"""Select points (combinations of axis values): all of a recipe, without `exclude`, with `include`.

    exclude: [{subset: [in900-random, "budget-*"], eps: [1, 3]}, {target: sun397, method: full}]
    include: [{arch: resnet50, subset: in1000, eps: 0}]

If an entry does not name an axis, it matches all values of that axis. `*` in a name stands for any
text; such a pattern selects among the names in the recipe. `exclude` is applied first, so `include`
may add some excluded points again. An entry drops or adds models with everything that depends on
them. An entry that names a method drops or adds transfers only; one that names a target but no
method also drops or adds features and scores on this target. `selection: unseen` matches targets
other than those for which the model's subset was selected.
"""

import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from harness.config.recipe import PointSettings, Recipe

Axes = dict[str, Any]
# Axes of pretraining, in the order of expansion: the last axis changes fastest.
PRETRAIN = ("subset", "arch", "variant", "eps", "seed")
# Axes for which `include` may add values that are not in the recipe's lists.
FREE = ("arch", "eps", "seed")


class AxisSelection:
    """The points of the axes that a recipe selects."""

    def __init__(self, recipe: Recipe) -> None:
        """Read the axes, and the entries of `exclude` and `include`."""
        self.values: dict[str, Collection[Any]] = {
            axis: dict.fromkeys(values) for axis, values in axes_of(recipe).items()
        }
        self._exclude = [_values_of(entry, self.values) for entry in recipe.exclude]
        self._include = [_values_of(entry, self.values) for entry in recipe.include]
        self._is_product = not recipe.exclude and not recipe.include
        self._targets_of = {
            subset.name: subset.selection_targets
            for subset in recipe.subsets
            if subset.selection_targets
        }

    def models(self) -> Iterator[Axes]:
        """Iterate over the axis values of each model to pretrain."""
        seen = set()
        if "subset" not in self.values:
            return
        for entry in ({}, *self._include):
            if "model" in entry:
                continue
            axes = [axis for axis in PRETRAIN if axis in self.values]
            for values in product(*(entry.get(axis, self.values[axis]) for axis in axes)):
                if values not in seen and self.includes(
                    point := dict(zip(axes, values, strict=True))
                ):
                    seen.add(values)
                    yield point

    def num_models(self) -> int:
        """Upper bound of the number of models; counts also the points that `exclude` drops."""
        if "subset" not in self.values:
            return 0
        axes = [axis for axis in PRETRAIN if axis in self.values]
        entries = ({}, *(entry for entry in self._include if "model" not in entry))
        return sum(
            prod(len(entry.get(axis, self.values[axis])) for axis in axes) for entry in entries
        )

    def num_points_of_entries(self) -> int:
        """Upper bound of the number of points that `idle_entries` visits."""
        return sum(
            prod(len(entry.get(axis, self.values[axis])) for axis in axes)
            for entry in (*self._exclude, *self._include)
            for axes in self._axes_of_points(entry)
        )

    def includes(self, axes: Axes) -> bool:
        """Return whether a point is selected.

        axes: values that identify a model; with a target added, its features and scores on that
            target; with a method added as well, a single transfer.
        """
        if self._is_product:
            return True
        axes = self._described(axes)
        return (
            self._in_product(axes) and not any(_matches(entry, axes) for entry in self._exclude)
        ) or any(self._adds(entry, axes) for entry in self._include)

    def idle_entries(self) -> tuple[list[int], list[int]]:
        """Indices of entries of `exclude` that drop nothing, and of `include` that add nothing.

        An entry is applied after the entries before it: points that these have dropped or added do
        not count.
        """
        exclude, include = self._exclude, self._include
        idle: tuple[list[int], list[int]] = ([], [])
        try:
            self._include = []
            for number, entry in enumerate(exclude):
                self._exclude = exclude[:number]
                if not any(
                    _matches(entry, point) and self.includes(point) for point in self._points(entry)
                ):
                    idle[0].append(number)
            self._exclude = exclude
            for number, entry in enumerate(include):
                self._include = include[:number]
                if all(self.includes(point) for point in self._points(entry)):
                    idle[1].append(number)
        finally:
            self._exclude, self._include = exclude, include
        return idle

    def _described(self, axes: Axes) -> Axes:
        """Add the axis `selection`: whether the subset was selected for the transfer's target."""
        targets = self._targets_of.get(axes.get("subset", ""))
        if targets is None or "target" not in axes:
            return axes
        return {**axes, "selection": "seen" if axes["target"] in targets else "unseen"}

    def _points(self, entry: Axes) -> Iterator[Axes]:
        """Iterate over the points that an entry matches."""
        for axes in self._axes_of_points(entry):
            for values in product(*(entry.get(axis, self.values[axis]) for axis in axes)):
                yield self._described(dict(zip(axes, values, strict=True)))

    def _axes_of_points(self, entry: Axes) -> Iterator[Sequence[str]]:
        """Iterate over the lists of axes that an entry's points may have.

        The first list is for the recipe's `models`, the second for models that it pretrains. A list
        is left out if it lacks an axis that the entry names.
        """
        needed = {*entry, "target"} if "selection" in entry else {*entry}
        transfer_axes = [axis for axis in ("target", "method") if axis in needed]
        for model_axes in (("model",), PRETRAIN):
            axes = [axis for axis in model_axes if axis in self.values]
            if axes and needed <= {*axes, *transfer_axes, "selection"}:
                yield (*axes, *transfer_axes)

    def _in_product(self, axes: Axes) -> bool:
        return all(
            value in self.values[axis] for axis, value in axes.items() if axis in self.values
        )

    def _adds(self, entry: Axes, axes: Axes) -> bool:
        """Return whether an entry of `include` adds a point.

        If the point is a model, the entry's target and method do not matter, because every transfer
        needs its model.
        """
        if any(axis not in axes for axis in entry if axis not in ("target", "method")):
            return False
        return all(
            value in entry.get(axis, self.values.get(axis, (value,)))
            for axis, value in axes.items()
            if axis in self.values or axis in entry
        )


def axes_of(recipe: Recipe) -> dict[str, Sequence[Any]]:
    """Map each axis that the recipe has to its values."""
    axes: dict[str, Sequence[Any]] = {}
    if recipe.subsets:
        axes |= {"subset": [subset.name for subset in recipe.subsets], "arch": recipe.archs}
        axes |= {"variant": list(recipe.variants)} if recipe.variants else {}
        axes |= {"eps": recipe.eps}
    axes |= {"model": [model.name for model in recipe.models]} if recipe.models else {}
    axes |= {"seed": recipe.seeds}
    return axes | {
        "target": [target.label for target in recipe.targets],
        "method": list(recipe.methods),
    }


def unknown_values(
    recipe: Recipe, entry: PointSettings, *, added: bool
) -> Iterator[tuple[str, Any, Sequence[Any]]]:
    """Find values in an entry that are not values of the recipe's axes.

    Args:
        recipe: the recipe.
        entry: an entry of `exclude` or `include`.
        added: the entry is one of `include`, which may add values to the axes in FREE.

    Yields:
        Axis, value, and the recipe's values of the axis.
    """
    known = axes_of(recipe)
    unique = {axis: set(of_axis) for axis, of_axis in known.items()}
    for axis, values in entry.axes().items():
        if axis == "selection":
            continue
        of_axis = unique.get(axis, set())
        for value in values:
            if _is_pattern(value):
                is_known = bool(fnmatch.filter(of_axis, value))
            else:
                is_known = value in of_axis or (added and axis in FREE and axis in known)
            if not is_known:
                yield axis, value, known.get(axis, ())


def _values_of(entry: PointSettings, known: Mapping[str, Collection[Any]]) -> Axes:
    """Map the axes of an entry to their values, as keys of a dictionary for fast lookup.

    A name with `*` is replaced by all values of the axis that match it.
    """
    return {
        axis: dict.fromkeys(
            name
            for value in values
            for name in (
                fnmatch.filter(known.get(axis, ()), value) if _is_pattern(value) else [value]
            )
        )
        for axis, values in entry.axes().items()
    }


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and "*" in value


def _matches(entry: Axes, axes: Axes) -> bool:
    return all(axis in axes and axes[axis] in values for axis, values in entry.items())
