"""Compute the differences in scores that a change of one setting makes, paired by seed.

The comparisons are:
- each subset with the largest one, also target by target (`subset_by_target`);
- subsets with equal numbers of classes: the one that the recipe lists first with each later one
  (`same_size`), except for subsets with as many classes as the largest;
- each eps with the smallest, and each variant of pretraining with the base variant;
- a subset of fewer classes with a subset of fewer images per class; their numbers of images differ
  by at most BUDGET_TOLERANCE (`budget`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.report.data.records import (
    AccuracyRow,
    TransferRow,
    at_full_size,
    format_eps,
    under_every_variant,
)
from harness.report.stats.intervals import Condition, SeedMean, paired_difference

MASKING = "clean masked_minus_unmasked"
BUDGET_TOLERANCE = 0.05  # largest relative difference of numbers of images that count as equal
MEASURES = {
    "clean common_unmasked": "clean top-1, common classes, unmasked",
    "clean common_masked": "clean top-1, common classes, masked",
    MASKING: "gain in clean top-1 from masking",
    "adversarial common_unmasked": "adversarial top-1, common classes, unmasked",
    "adversarial common_masked": "adversarial top-1, common classes, masked",
}


@dataclass(frozen=True)
class Effect:
    """Setting minus baseline in one measure, as a difference of fractions.

    Attributes:
        axis: what was changed: subset, subset_by_target, same_size, eps, variant or budget.
        measure: a key of MEASURES, `transfer <method>` in the targets' metrics, or `transfer` as
            the mean of all methods.
        over: axis -> values that the difference is averaged over within each seed, e.g.
            `{"eps": ("0", "0.5"), "target": ("pets",)}`. For budget, there is also "images" with
            the number of images.
    """

    arch: str
    axis: str
    setting: str
    baseline: str
    measure: str
    over: Mapping[str, tuple[str, ...]]
    difference: SeedMean


@dataclass(frozen=True)
class DifferenceRow:
    """An Effect as a row of the CSV file. Differences are fractions.

    Attributes:
        over: axes and values that the difference is averaged over, as `axis=value`.
    """

    arch: str
    axis: str
    setting: str
    baseline: str
    measure: str
    over: tuple[str, ...]
    difference: float
    sd: float | None
    half_width_95: float | None
    num_seeds: int

    @classmethod
    def of(cls, effect: Effect) -> "DifferenceRow":
        """Turn an effect into a row."""
        over = tuple(f"{axis}={value}" for axis, values in effect.over.items() for value in values)
        return cls(
            effect.arch,
            effect.axis,
            effect.setting,
            effect.baseline,
            effect.measure,
            over,
            effect.difference.mean,
            effect.difference.sd,
            effect.difference.half_width,
            effect.difference.num_seeds,
        )


@dataclass(frozen=True)
class _Point:
    """One measured number and its value on each axis; "" for axes that do not apply."""

    measure: str
    subset: str
    eps: float
    seed: int
    value: float
    target: str = ""
    attack_eps: str = ""
    variant: str = ""
    method: str = ""  # set only if `measure` does not contain the method


def effects(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> list[Effect]:
    """Compute every difference whose two sides have been measured, arch by arch.

    Subset effects are first averaged over every eps, then given for each eps if there are several.
    """
    all_effects: list[Effect] = []
    for arch in archs(accuracy, transfer):
        accuracy_of_arch = [row for row in accuracy if row.arch == arch]
        transfer_of_arch = [row for row in transfer if row.arch == arch]
        points = list(_points(accuracy_of_arch, transfer_of_arch))
        # A subset with all classes is often the same model in several variants. It is then the
        # baseline of each variant.
        everywhere = list(
            _points(under_every_variant(accuracy_of_arch), under_every_variant(transfer_of_arch))
        )
        sizes = source_sizes(accuracy_of_arch, transfer_of_arch)
        subsets = list(dict.fromkeys(point.subset for point in points))
        eps_values = sorted({point.eps for point in points})
        largest = max(subsets, key=lambda name: sizes.get(name, (0, 0)), default="")
        for subset in subsets:
            if subset != largest:
                all_effects += _subset_effects(arch, everywhere, subset, largest)
                all_effects += _subset_effects_by_target(arch, everywhere, subset, largest)
                for eps in eps_values if len(eps_values) > 1 else ():
                    all_effects += _subset_effects(
                        arch, [point for point in everywhere if point.eps == eps], subset, largest
                    )
        for first, other in _same_sized(subsets, sizes, largest):
            all_effects += _subset_effects(arch, everywhere, first, other, axis="same_size")
        for eps in eps_values[1:]:
            all_effects += _eps_effects(arch, points, eps, eps_values[0])
        variants = list(dict.fromkeys(point.variant for point in points))
        base = "" if "" in variants else next(iter(variants), "")
        for variant in variants:
            if variant != base:
                all_effects += _variant_effects(arch, points, variant, base)
        all_effects += _budget_effects(arch, transfer_of_arch)
    return all_effects


def source_sizes(
    accuracy: Iterable[AccuracyRow], transfer: Iterable[TransferRow]
) -> dict[str, tuple[int, int]]:
    """Subset -> (classes, training images; 0 if unknown), for subsets with known classes."""
    evaluated = {
        row.subset: (row.num_classes, 0) for row in accuracy if row.num_classes is not None
    }
    return evaluated | {
        row.subset: (row.num_classes, row.num_source_images or 0)
        for row in transfer
        if row.num_classes is not None
    }


def smallest_subset(
    sizes: Mapping[str, tuple[int, int]], names: Sequence[str], baseline: str
) -> str:
    """Select the subset with the fewest classes.

    If all subsets have as many classes as the baseline, the one with the fewest images is selected.
    If subsets are equal, the first is selected: recipes list controls after their subset.

    Args:
        sizes: subset -> (classes, training images), see `source_sizes`.
        names: subsets to select from.
        baseline: subset that the others are compared with.
    """
    unknown = math.inf, math.inf
    by_images = all(
        sizes.get(name, unknown)[0] == sizes.get(baseline, unknown)[0] for name in names
    )
    return min(names, key=lambda name: sizes.get(name, unknown)[by_images])


def archs(accuracy: Iterable[AccuracyRow], transfer: Iterable[TransferRow]) -> list[str]:
    """Return the architectures of the models that the recipe trains, in the order of the rows."""
    names = dict.fromkeys([*(row.arch for row in accuracy), *(row.arch for row in transfer)])
    return [arch for arch in names if arch]


def _points(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> Iterable[_Point]:
    unmasked = {
        (row.subset, row.variant, row.eps, row.seed): row.top1
        for row in accuracy
        if (row.view, row.attack) == ("common_unmasked", "clean")
    }
    for row in accuracy:
        if row.view != "own":
            yield _Point(
                f"{row.attack} {row.view}",
                row.subset,
                row.eps,
                row.seed,
                row.top1,
                variant=row.variant,
                attack_eps="" if row.attack_eps is None else format_eps(row.attack_eps),
            )
        place = row.subset, row.variant, row.eps, row.seed
        if (row.view, row.attack) == ("common_masked", "clean") and place in unmasked:
            yield _Point(
                MASKING,
                row.subset,
                row.eps,
                row.seed,
                row.top1 - unmasked[place],
                variant=row.variant,
            )
    for transferred in at_full_size(transfer):
        if not transferred.is_scratch:  # scratch has no source
            yield _Point(
                f"transfer {transferred.method}",
                transferred.subset,
                transferred.eps,
                transferred.seed,
                transferred.score,
                target=transferred.target,
                variant=transferred.variant,
            )


def _same_sized(
    subsets: Sequence[str], sizes: Mapping[str, tuple[int, int]], largest: str
) -> Iterable[tuple[str, str]]:
    """Pair the first subset with a number of classes with each later subset with the same number.

    Subsets with as many classes as the largest subset are left out: they are compared with it
    anyway.
    """
    first_of: dict[int, str] = {}
    for subset in subsets:
        if subset in sizes and sizes[subset][0] != sizes[largest][0]:
            first = first_of.setdefault(sizes[subset][0], subset)
            if first != subset:
                yield first, subset


def _subset_effects(
    arch: str, points: Sequence[_Point], subset: str, baseline: str, axis: str = "subset"
) -> list[Effect]:
    return _differences(
        arch,
        points,
        axis,
        (subset, baseline),
        lambda point: point.subset,
        {
            "target": lambda point: point.target,
            "method": lambda point: point.method,
            "eps": lambda point: format_eps(point.eps),
            "variant": lambda point: point.variant,
        },
    )


def _subset_effects_by_target(
    arch: str, points: Sequence[_Point], subset: str, baseline: str
) -> list[Effect]:
    """Compare two subsets on each target, by the mean over methods; needs at least two targets."""
    transfers = [point for point in points if point.measure.startswith("transfer ")]
    targets = list(dict.fromkeys(point.target for point in transfers))
    by_target = []
    for target in targets if len(targets) > 1 else ():
        of_target = [
            replace(point, measure="transfer", method=point.measure.removeprefix("transfer "))
            for point in transfers
            if point.target == target
        ]
        by_target += _subset_effects(arch, of_target, subset, baseline, axis="subset_by_target")
    return by_target


def _eps_effects(arch: str, points: Sequence[_Point], eps: float, baseline: float) -> list[Effect]:
    # Models are compared under equal attacks only, so the attack's eps is one of the equal axes.
    return _differences(
        arch,
        points,
        "eps",
        (format_eps(eps), format_eps(baseline)),
        lambda point: format_eps(point.eps),
        {
            "target": lambda point: point.target,
            "subset": lambda point: point.subset,
            "attack eps": lambda point: point.attack_eps,
            "variant": lambda point: point.variant,
        },
    )


def _variant_effects(
    arch: str, points: Sequence[_Point], variant: str, baseline: str
) -> list[Effect]:
    return _differences(
        arch,
        points,
        "variant",
        (variant, baseline),
        lambda point: point.variant,
        {
            "target": lambda point: point.target,
            "subset": lambda point: point.subset,
            "eps": lambda point: format_eps(point.eps),
            "attack eps": lambda point: point.attack_eps,
        },
    )


def _budget_effects(arch: str, transfer: Sequence[TransferRow]) -> list[Effect]:
    """Compare each subset of fewer classes with one of all classes and about as many images."""
    rows = [row for row in at_full_size(transfer) if row.num_classes and row.num_source_images]
    sizes = source_sizes((), rows)
    max_classes = max((classes for classes, _ in sizes.values()), default=0)
    max_images = max((images for _, images in sizes.values()), default=0)
    all_classes = [
        name
        for name, (classes, images) in sizes.items()
        if classes == max_classes and images < (1 - BUDGET_TOLERANCE) * max_images
    ]
    points = list(_points((), rows))
    budget_effects = []
    if not all_classes:
        return []
    for few in (name for name, (classes, _) in sizes.items() if classes < max_classes):
        many = min(all_classes, key=lambda name: abs(sizes[name][1] - sizes[few][1]))
        if abs(sizes[many][1] - sizes[few][1]) <= BUDGET_TOLERANCE * sizes[many][1]:
            budget_effects += [
                replace(effect, over={**effect.over, "images": (f"{sizes[many][1]:,}",)})
                for effect in _subset_effects(arch, points, few, many, axis="budget")
            ]
    return budget_effects


def _differences(
    arch: str,
    points: Sequence[_Point],
    axis: str,
    settings: tuple[str, str],
    setting_of: Callable[[_Point], str],
    over: Mapping[str, Callable[[_Point], str]],
) -> list[Effect]:
    """For every measure, settings[0] minus settings[1] at equal values of the axes of `over`."""
    differences = []
    for measure in _measures(points):
        sides: list[dict[tuple[int, Condition], float]] = [{}, {}]
        for point in points:
            if point.measure == measure and setting_of(point) in settings:
                condition = tuple(value_of(point) for value_of in over.values())
                sides[settings.index(setting_of(point))][point.seed, condition] = point.value
        if difference := paired_difference(*sides):
            differences.append(
                Effect(
                    arch,
                    axis,
                    *settings,
                    measure,
                    _values(difference.conditions, list(over)),
                    difference.over_seeds,
                )
            )
    return differences


def _measures(points: Iterable[_Point]) -> list[str]:
    measured = dict.fromkeys(point.measure for point in points)
    order = (*MEASURES, *(name for name in measured if name not in MEASURES))
    return [name for name in order if name in measured]


def _values(conditions: Sequence[Condition], axes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Axis -> its values in the conditions; axes that do not apply are omitted."""
    named = {
        axis: tuple(dict.fromkeys(column))
        for axis, column in zip(axes, zip(*conditions, strict=True), strict=True)
    }
    return {axis: values for axis, values in named.items() if values != ("",)}
