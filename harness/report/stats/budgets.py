"""Compare more classes with more images per class at equal numbers of images (Huh et al. 2016)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.config.recipe import Recipe
from harness.report.data.records import ModelId, TransferRow, at_full_size
from writers.subset.image_steps import Budget

NUM_IMAGES = (500_000, 250_000, 125_000)  # numbers of pretraining images in Huh et al. 2016
# Published scores (Huh et al. 2016): (target, `by`) -> percent for each of NUM_IMAGES. The targets
# are detection on VOC 2007 and scenes.
PUBLISHED: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("voc2007_detection", "classes"): (57.1, 54.8, 50.6),
    ("voc2007_detection", "examples"): (57.0, 52.5, 49.8),
    ("sun397", "classes"): (50.6, 45.7, 42.2),
    ("sun397", "examples"): (49.7, 46.7, 42.3),
}


@dataclass(frozen=True)
class BudgetScore:
    """Score at one number of pretraining images.

    Attributes:
        by: `classes` for all images of fewer classes, `examples` for fewer images of all classes.
        score: mean over seeds of the target's metric, as a fraction.
        published: score in Huh et al. 2016, in percent; None if they have no such score.
    """

    target: str
    method: str
    arch: str
    variant: str
    eps: float
    by: str
    num_images: int
    score: float
    num_seeds: int
    published: float | None


def budget_scores(recipe: Recipe, transfer: Iterable[TransferRow]) -> list[BudgetScore]:
    """Average the transfers of subsets that are defined only by a budget of images.

    Returns:
        A row per target, method, model and subset; empty unless both kinds of budget were measured.
    """
    budgets = _budgets(recipe)
    scores: dict[tuple[str, str, ModelId], list[float]] = {}
    for row in at_full_size(transfer):
        if not row.is_scratch and not row.model and row.subset in budgets:
            scores.setdefault((row.target, row.method, row.model_id), []).append(row.score)
    rows = [
        BudgetScore(
            target,
            method,
            model.arch,
            model.variant,
            model.eps,
            *budgets[model.subset],
            float(np.mean(values)),
            len(values),
            _published(target, *budgets[model.subset]),
        )
        for (target, method, model), values in scores.items()
    ]
    return rows if len({row.by for row in rows}) == 2 else []


def _budgets(recipe: Recipe) -> dict[str, tuple[str, int]]:
    budgets: dict[str, tuple[str, int]] = {}
    for subset in recipe.subsets:
        steps: Sequence[object] = subset.all_steps
        if len(steps) == 1 and isinstance(steps[0], Budget):
            budget = steps[0].budget
            if budget.by is not None and budget.images is not None:
                budgets[subset.name] = budget.by, budget.images
    return budgets


def _published(target: str, by: str, num_images: int) -> float | None:
    values = PUBLISHED.get((target, by))
    if values is None or num_images not in NUM_IMAGES:
        return None
    return values[NUM_IMAGES.index(num_images)]
