"""Check the size of a recipe, by the lengths of its lists, before anything is expanded.

Lists multiply: 3,000 subsets with 3,000 seeds are 9,000,000 models. Points (combinations of values)
that `exclude` drops are counted, because expanding visits them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from pydantic import ValidationError

from harness.config import grid
from harness.config.axes import PRETRAIN, AxisSelection, axes_of
from harness.config.products import Lengths, too_many
from harness.config.recipe import DEFAULT_FOLDS, Recipe
from harness.config.transfer import FANNED_OUT, MethodSettings
from writers.text_names import counted

MAX_ENTRIES = 10_000  # entries of a list or mapping in the recipe, such as `seeds`
MAX_STAGES = 500_000  # expanding takes about 30 s and 600 MB
MAX_PAIRS = 5_000_000  # pairs of a model and a subset that it is compared on: about 15 s
MAX_COMPARISONS = 20_000_000  # comparisons of points with `exclude` and `include`: about 15 s


@dataclass(frozen=True)
class Term:
    """Stages of one sort.

    Attributes:
        count: upper bound of the number of stages.
        lengths: lengths of the lists that multiply in `count`.
    """

    count: int
    lengths: Lengths


def too_long(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Find lists and mappings of a recipe's plain values that are too long to be checked.

    Yields:
        Setting and problem.
    """
    for name, value in values.items():
        if isinstance(value, list | dict) and len(value) > MAX_ENTRIES:
            yield (
                name,
                f"has {counted(len(value), 'entry')}, and at most {MAX_ENTRIES:,} are possible.",
            )


def check(recipe: Recipe) -> str | None:
    """Return why a recipe is too large to be planned; None if it is not.

    The time is linear in the size of the recipe's file.
    """
    selection = AxisSelection(recipe)
    axes = _lengths(recipe)
    terms = terms_of(recipe)
    total = sum(term.count for term in terms)
    if total > MAX_STAGES:
        largest = max(terms, key=lambda term: term.count)
        return too_many(total, "stages", largest.lengths, MAX_STAGES)
    compared = len(recipe.evaluate.common or recipe.subsets)
    if (pairs := selection.num_models() * compared) > MAX_PAIRS:
        what = "pairs of a model and a subset, on whose shared classes models are compared"
        return too_many(pairs, what, axes, MAX_PAIRS)
    entries = len(recipe.exclude) + len(recipe.include)
    comparisons = entries * (selection.num_points_of_entries() + total)
    if comparisons > MAX_COMPARISONS:
        what = "comparisons of a point with an entry of `exclude` or `include`"
        lengths = axes | {"entries of `exclude` and `include`": entries}
        return too_many(comparisons, what, lengths, MAX_COMPARISONS)
    return None


def terms_of(recipe: Recipe) -> list[Term]:
    """Count the stages of a recipe by sort, including equal stages, which are merged later."""
    return [*_pretrained(recipe), *_adopted(recipe), *_of_selections(recipe)]


def _lengths(recipe: Recipe) -> dict[str, int]:
    """Lengths of the axes of pretraining, with the values that `include` adds."""
    values = {axis: set(of_axis) for axis, of_axis in axes_of(recipe).items() if axis in PRETRAIN}
    for entry in recipe.include:
        for axis, added in entry.axes().items():
            if axis in values:
                values[axis].update(added)
    return {axis if axis == "eps" else f"{axis}s": len(of_axis) for axis, of_axis in values.items()}


def _pretrained(recipe: Recipe) -> Iterator[Term]:
    selection = AxisSelection(recipe)
    lengths = _lengths(recipe)
    models = selection.num_models()
    yield Term(2 * models + len(recipe.subsets) + len(recipe.targets) + 1, lengths)
    if recipe.ranking is not None:
        is_folded = recipe.ranking.split == "train"
        folds = (recipe.ranking.folds or DEFAULT_FOLDS) if is_folded else 1
        yield Term(folds + 2, {"folds": folds})
    transfers = _transfers(recipe)
    yield Term(models * transfers.count, {**lengths, **transfers.lengths})


def _adopted(recipe: Recipe) -> Iterator[Term]:
    models, transfers = len(recipe.models), _transfers(recipe)
    seeds = len(recipe.seeds)
    lengths = {"models": models, "seeds": seeds, **transfers.lengths}
    own = 1 + recipe.measures_models
    yield Term(models * (own + seeds * transfers.count), lengths)


def _of_selections(recipe: Recipe) -> Iterator[Term]:
    """Count the stages that score classes and images for subsets."""
    requests = {request for subset in recipe.subsets for request in subset.requests}
    if not requests:
        return
    settings = recipe.selection
    of_influence = [request for request in requests if request.method == "influence"]
    if of_influence:
        halves = {"selection.influence.num_models": settings.influence.num_models}
        yield Term(2 * settings.influence.num_models, halves)
        method = recipe.methods.get(settings.influence.method)
        of_pair = 2 if method is None else _stages_per_model(method)  # features and a transfer
        pairs = sum(len(request.targets) for request in of_influence)
        yield Term(
            settings.influence.num_models * pairs * of_pair,
            {**halves, "targets of `influence`": pairs},
        )
    early = sum(request.method in ("el2n", "forgetting") for request in requests)
    seeds = len(settings.early.seeds)
    yield Term(early * seeds, {"scores": early, "selection.early.seeds": seeds})
    num_features = sum(4 + len(request.targets) for request in requests)
    yield Term(num_features, {"scores and their targets": num_features})


def _transfers(recipe: Recipe) -> Term:
    """Count the stages of one model with one seed: transfers, features and scores."""
    num_targets: dict[str, int] = {}
    for target in recipe.targets:
        num_targets[target.dataset] = num_targets.get(target.dataset, 0) + 1
    count = 2 * len(recipe.targets) if recipe.scores else 0
    longest: dict[str, int] = {}
    for settings in recipe.methods.values():
        left = len(recipe.targets)
        for dataset in settings.per_target:
            own_targets = num_targets.get(dataset, 0)
            left -= own_targets
            count += own_targets * _stages_per_model(_for_target(settings, dataset))
        count += left * _stages_per_model(settings)
        for axis in FANNED_OUT:
            if (length := _length(settings, axis)) > longest.get(axis, 1):
                longest[axis] = length
    lengths = {"targets": len(recipe.targets), "methods": len(recipe.methods)}
    return Term(count, lengths | {f"values of {axis}": n for axis, n in longest.items()})


def _for_target(settings: MethodSettings, dataset: str) -> MethodSettings:
    try:
        return settings.for_target(dataset)
    except ValidationError:  # another check reports it
        return settings


def _stages_per_model(settings: MethodSettings) -> int:
    """Number of transfers to one target by one method, and of the features that they need."""
    features = len(grid.feature_roles(settings)) if settings.NEEDS == "features" else 0
    return prod(_length(settings, axis) for axis in FANNED_OUT) * (1 + features)


def _length(settings: MethodSettings, axis: str) -> int:
    values = getattr(settings, axis, None)
    return len(values) if isinstance(values, tuple) else 1
