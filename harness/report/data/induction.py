"""Select the kNN accuracies for the induction experiment (Huh et al. 2016).

The question is whether models that were trained on coarse classes separate fine classes. Nothing is
trained on the fine classes. The measure is kNN accuracy: the fraction of a target's images whose
nearest neighbor in the frozen model's features has the same class. The pretraining images are
(nearly) the same for all models; only their labels differ in coarseness.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.axes import AxisSelection
from harness.config.recipe import Recipe
from harness.report.data.records import KNN, ScoreRow, under_every_variant

# Subsets have (nearly) the same images if their number of images is at least this fraction of the
# largest subset's.
SAME_IMAGES = 0.95


@dataclass(frozen=True)
class Induction:
    """kNN accuracies of one architecture on one target, on which no model is trained.

    The rows differ in the number of source classes. If several variants of pretraining give one
    model, it has a row for each of them.
    """

    arch: str
    target: str
    rows: tuple[ScoreRow, ...]

    @property
    def lines(self) -> list[tuple[str, float]]:
        """(variant, eps) of each line of the figure; a line has at least two numbers of classes."""
        points = dict.fromkeys((row.variant, row.eps, row.num_classes) for row in self.rows)
        counts = Counter((variant, eps) for variant, eps, _ in points)
        return [line for line, count in counts.items() if count > 1]

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing; None if the number of target classes is unknown."""
        num_answers = self.rows[0].num_answers
        return 1 / num_answers if num_answers else None


def inductions(recipe: Recipe, scores: Sequence[ScoreRow]) -> list[Induction]:
    """Select targets that have scores and no transfer, and models with the same number of images.

    Returns an empty list unless the models differ in their number of classes.
    """
    rows = [
        row
        for row in scores
        if row.name == KNN and row.subset and row.num_classes and row.num_source_images
    ]
    max_images = max((row.num_source_images or 0 for row in rows), default=0)
    rows = [row for row in rows if (row.num_source_images or 0) >= SAME_IMAGES * max_images]
    if len({row.num_classes for row in rows}) < 2:
        return []
    trained = _trained_targets(recipe)
    groups: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in under_every_variant(rows):
        if row.target not in trained:
            groups.setdefault((row.arch, row.target), []).append(row)
    candidates = [Induction(arch, target, tuple(group)) for (arch, target), group in groups.items()]
    return [induction for induction in candidates if induction.lines]


def _trained_targets(recipe: Recipe) -> set[str]:
    """Targets to which a method of the recipe transfers any model."""
    selection = AxisSelection(recipe)
    models = list(selection.models())
    return {
        target.label
        for target in recipe.targets
        if any(
            selection.includes({**axes, "target": target.label, "method": method})
            for axes in models
            for method in recipe.methods
        )
    }
