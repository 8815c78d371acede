"""Induction (Huh et al. 2016): whether models that were only taught coarse classes tell fine ones apart all the same.

Measured without any training on the fine classes: the share of a target's images whose nearest neighbour, among the features of
the frozen model, is of their class. The images of pretraining are (nearly) the same for all; only their labels get coarser.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.config.axes import Points
from harness.config.recipe import Recipe
from harness.report.data.rows import ScoreRow, shown_eps, under_every_variant
from harness.report.stats.intervals import (
    Cell,
    Difference,
    difference_noise,
    is_near_chance,
    paired_difference,
)
from harness.report.text.answer import in_points, over

SCORE = "knn"
SAME_IMAGES = 0.95  # of the most images of any subset


@dataclass(frozen=True)
class Induction:
    """One architecture on one target that nothing is trained on; subsets differ in number of classes."""

    arch: str
    target: str
    rows: tuple[ScoreRow, ...]  # of every variant that a model stands for

    @property
    def lines(self) -> list[tuple[str, float]]:
        """(variant, eps) of each line of the figure: those that join at least two numbers of classes."""
        points = dict.fromkeys((row.variant, row.eps, row.num_classes) for row in self.rows)
        counts = Counter((variant, eps) for variant, eps, _ in points)
        return [line for line, count in counts.items() if count > 1]

    @property
    def chance(self) -> float | None:
        number = self.rows[0].num_answers
        return 1 / number if number else None


def inductions(recipe: Recipe, scores: Sequence[ScoreRow]) -> list[Induction]:
    """Where pretraining differs in number of classes on the same images, and a target has scores and no transfer."""
    rows = [
        row
        for row in scores
        if row.name == SCORE and row.subset and row.num_classes and row.num_source_images
    ]
    most = max((row.num_source_images or 0 for row in rows), default=0)
    rows = [row for row in rows if (row.num_source_images or 0) >= SAME_IMAGES * most]
    if len({row.num_classes for row in rows}) < 2:
        return []
    carried = _carried_targets(recipe)
    groups: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in under_every_variant(rows):
        if row.target not in carried:
            groups.setdefault((row.arch, row.target), []).append(row)
    return [
        Induction(arch, target, tuple(mine))
        for (arch, target), mine in groups.items()
        if Induction(arch, target, tuple(mine)).lines
    ]


def _carried_targets(recipe: Recipe) -> set[str]:
    """Targets to which a method of the recipe takes a model."""
    points = Points(recipe)
    models = list(points.models())
    return {
        target.label
        for target in recipe.targets
        if any(
            points.wants({**axes, "target": target.label, "method": method})
            for axes in models
            for method in recipe.methods
        )
    }


def about_induction(found: Sequence[Induction]) -> str:
    """Fewest classes against most, for each target."""
    several = len({one.arch for one in found}) > 1
    return " ".join(
        f"{one.arch}: {text}" if several else text for one in found if (text := _about(one))
    )


def _about(one: Induction) -> str:
    few, many = (choose(one.rows, key=lambda row: row.num_classes or 0) for choose in (min, max))
    sides: list[Mapping[tuple[int, Cell], float]] = [
        {
            (row.seed, (row.variant, shown_eps(row.eps))): row.value
            for row in one.rows
            if row.subset == subset
        }
        for subset in (few.subset, many.subset)
    ]
    difference = paired_difference(*sides)
    if difference is None:
        return ""
    shared = [place for place in sides[0] if place in sides[1] and place[1] in difference.cells]
    low, high = (statistics.fmean(side[place] for place in shared) for side in sides)
    num_images = few.num_images or 0
    averaged = over(
        {
            "variant": tuple(dict.fromkeys(cell[0] for cell in difference.cells)),
            "eps": tuple(dict.fromkeys(cell[1] for cell in difference.cells)),
        }
    )
    said = (
        f"On {one.target}, the nearest neighbour was of the same class for {100 * low:.1f} % of {num_images:,} images with "
        f"features taught {_named(few)}, and for {100 * high:.1f} % with {_named(many)}: "
        f"{in_points(difference.estimate)}{averaged}."
    )
    return said + _reading((low, high), difference, few, num_images)


def _reading(sides: Iterable[float], difference: Difference, row: ScoreRow, num_images: int) -> str:
    """What keeps the difference from saying more than it does."""
    sides = list(sides)
    if all(is_near_chance(value, row.num_answers, num_images) for value in sides):
        return f" Neither is clearly above chance ({100 / (row.num_answers or 1):.1f} %)."
    if difference.estimate.num_seeds > 1:
        return ""
    noise = max(difference_noise(value, num_images) for value in sides)
    if abs(difference.estimate.mean) <= noise:
        return f" That is within what so few images leave open in single runs (± {100 * noise:.1f} points)."
    return " These are single runs."


def _named(row: ScoreRow) -> str:
    return f"{row.num_classes:,} classes ({row.subset})"
