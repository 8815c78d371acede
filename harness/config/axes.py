"""Which points of its axes a recipe runs: their product, without what `exclude` drops, with what `include` adds.

    exclude: [{subset: [in900-random, in800-random], eps: [1, 3]}, {target: sun397, method: full}]
    include: [{arch: resnet50, subset: in1000, eps: 0}]

An axis that an entry does not name stands for all of the recipe's values. `exclude` comes first: `include` may bring back a
part. An entry drops or adds models, with all that hangs on them, or, where it names a target or a method, transfers.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from harness.config.recipe import PointSettings, Recipe

Axes = dict[str, Any]
PRETRAIN = (
    "subset",
    "arch",
    "variant",
    "eps",
    "seed",
)  # in this order, the last one changing fastest
FREE = ("arch", "eps", "seed")  # an included point may have values that the recipe's lists lack


class Points:
    """The choice that a recipe makes among the points of its axes."""

    def __init__(self, recipe: Recipe) -> None:
        self.values = axes_of(recipe)
        self._exclude = [entry.axes() for entry in recipe.exclude]
        self._include = [entry.axes() for entry in recipe.include]
        self._is_product = not recipe.exclude and not recipe.include

    def models(self) -> Iterator[Axes]:
        """The axes of each model to pretrain, once each."""
        seen = set()
        if "subset" not in self.values:
            return
        for entry in ({}, *self._include):
            if "model" in entry:
                continue
            axes = [axis for axis in PRETRAIN if axis in self.values]
            for values in product(*(entry.get(axis, self.values[axis]) for axis in axes)):
                if values not in seen and self.wants(point := dict(zip(axes, values, strict=True))):
                    seen.add(values)
                    yield point

    def wants(self, axes: Axes) -> bool:
        """Whether a model of these axes is to be made; with a target, whether it is taken there; with a method, by that."""
        if self._is_product:
            return True
        return (
            self._in_product(axes) and not any(_names(entry, axes) for entry in self._exclude)
        ) or any(self._adds(entry, axes) for entry in self._include)

    def without_effect(self) -> tuple[list[int], list[int]]:
        """Numbers of the entries of `exclude` that drop nothing, and of those of `include` that add nothing."""
        exclude, include = self._exclude, self._include
        idle: tuple[list[int], list[int]] = ([], [])
        try:
            self._include = []
            for number, entry in enumerate(exclude):
                self._exclude = exclude[:number]
                if not any(
                    _names(entry, point) and self.wants(point) for point in self._points(entry)
                ):
                    idle[0].append(number)
            self._exclude = exclude
            for number, entry in enumerate(include):
                self._include = include[:number]
                if all(self.wants(point) for point in self._points(entry)):
                    idle[1].append(number)
        finally:
            self._exclude, self._include = exclude, include
        return idle

    def _points(self, entry: Axes) -> Iterator[Axes]:
        """All that an entry speaks of, adopted models and models to pretrain, as deep as the entry goes."""
        further = [axis for axis in ("target", "method") if axis in entry]
        for of_model in (("model",), PRETRAIN):
            axes = [axis for axis in of_model if axis in self.values]
            if axes and all(axis in (*axes, *further) for axis in entry):
                for values in product(
                    *(entry.get(axis, self.values[axis]) for axis in (*axes, *further))
                ):
                    yield dict(zip((*axes, *further), values, strict=True))

    def _in_product(self, axes: Axes) -> bool:
        return all(
            value in self.values[axis] for axis, value in axes.items() if axis in self.values
        )

    def _adds(self, entry: Axes, axes: Axes) -> bool:
        """A target or method of the entry does not matter to the model itself, which is needed either way."""
        if any(axis not in axes for axis in entry if axis not in ("target", "method")):
            return False
        return all(
            value in entry.get(axis, self.values[axis])
            for axis, value in axes.items()
            if axis in self.values
        )


def axes_of(recipe: Recipe) -> dict[str, Sequence[Any]]:
    """Axis -> its values in the recipe's lists; only axes that the recipe has."""
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
    """(axis, value, the axis's values) for what an entry names and the recipe does not have."""
    known = axes_of(recipe)
    for axis, values in entry.axes().items():
        for value in values:
            if value not in known.get(axis, ()) and not (added and axis in FREE and axis in known):
                yield axis, value, known.get(axis, ())


def _names(entry: Axes, axes: Axes) -> bool:
    return all(axis in axes and axes[axis] in values for axis, values in entry.items())
