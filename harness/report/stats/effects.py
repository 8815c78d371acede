"""What changing one setting did, paired by seed: each subset against the largest, and the first with so many classes against
each other one with as many; each eps against the smallest; each variant of pretraining against the plain one; and fewer
classes against fewer images of each, at equal numbers of images."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.report.data.rows import (
    AccuracyRow,
    TransferRow,
    at_full_size,
    shown_eps,
    under_every_variant,
)
from harness.report.stats.intervals import Cell, Estimate, paired_difference

MASKING = "clean masked_minus_unmasked"
BUDGET_TOLERANCE = 0.05
MEASURES = {
    "clean common_unmasked": "clean top-1, common classes, unmasked",
    "clean common_masked": "clean top-1, common classes, masked",
    MASKING: "what masking adds to clean top-1",
    "adversarial common_unmasked": "adversarial top-1, common classes, unmasked",
    "adversarial common_masked": "adversarial top-1, common classes, masked",
}


@dataclass(frozen=True)
class Effect:
    """Setting minus baseline in one measure, as a difference of fractions, averaged over `over` within each seed."""

    arch: str
    axis: str  # what was changed: subset, same_size (subsets with as many classes), eps, variant or budget
    setting: str
    baseline: str
    measure: str  # a key of MEASURES, or "transfer <method>" in the targets' metrics
    over: Mapping[str, tuple[str, ...]]  # {"eps": ("0", "0.5"), "target": ("pets",)}
    estimate: Estimate


@dataclass(frozen=True)
class DifferenceRow:
    """An Effect as a flat row: `difference`, `sd` and `half_width_95` are differences of fractions."""

    arch: str
    axis: str
    setting: str
    baseline: str
    measure: str
    over: tuple[str, ...]  # "eps=0.5"
    difference: float
    sd: float | None
    half_width_95: float | None
    num_seeds: int

    @classmethod
    def of(cls, effect: Effect) -> "DifferenceRow":
        over = tuple(f"{axis}={value}" for axis, values in effect.over.items() for value in values)
        return cls(
            effect.arch,
            effect.axis,
            effect.setting,
            effect.baseline,
            effect.measure,
            over,
            effect.estimate.mean,
            effect.estimate.sd,
            effect.estimate.half_width,
            effect.estimate.num_seeds,
        )


@dataclass(frozen=True)
class _Point:
    """One measured number and its place in the matrix; `target` and `attack_eps` are "" where they do not apply."""

    measure: str
    subset: str
    eps: float
    seed: int
    value: float
    target: str = ""
    attack_eps: str = ""
    variant: str = ""


def effects(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> list[Effect]:
    """Every difference that both sides have been measured for, arch by arch.

    Subset effects come averaged over every eps, then, where there are several, for each eps by itself.
    """
    found: list[Effect] = []
    for arch in archs(accuracy, transfer):
        mine = (
            [row for row in accuracy if row.arch == arch],
            [row for row in transfer if row.arch == arch],
        )
        points = list(_points(*mine))
        # All classes are often one model in several variants, and the baseline of each.
        everywhere = list(_points(under_every_variant(mine[0]), under_every_variant(mine[1])))
        sizes = source_sizes(*mine)
        subsets = list(dict.fromkeys(point.subset for point in points))
        eps_values = sorted({point.eps for point in points})
        largest = max(subsets, key=lambda name: sizes.get(name, (0, 0)), default="")
        for subset in subsets:
            if subset != largest:
                found += _subset_effects(arch, everywhere, subset, largest)
                for eps in eps_values if len(eps_values) > 1 else ():
                    found += _subset_effects(
                        arch, [point for point in everywhere if point.eps == eps], subset, largest
                    )
        for first, other in _same_sized(subsets, sizes, largest):
            found += _subset_effects(arch, everywhere, first, other, axis="same_size")
        for eps in eps_values[1:]:
            found += _eps_effects(arch, points, eps, eps_values[0])
        variants = list(dict.fromkeys(point.variant for point in points))
        plain = "" if "" in variants else next(iter(variants), "")
        for variant in variants:
            if variant != plain:
                found += _variant_effects(arch, points, variant, plain)
        found += _budget_effects(arch, mine[1])
    return found


def source_sizes(
    accuracy: Iterable[AccuracyRow], transfer: Iterable[TransferRow]
) -> dict[str, tuple[int, int]]:
    """Subset -> its classes and its training images (0: not known), for those whose classes are known."""
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
    """Of several subsets the one with the fewest classes, the first of equals: controls stand behind what they control. Where
    all have as many classes as the baseline: the one with the fewest images.
    """
    unknown = math.inf, math.inf
    by_images = all(
        sizes.get(name, unknown)[0] == sizes.get(baseline, unknown)[0] for name in names
    )
    return min(names, key=lambda name: sizes.get(name, unknown)[by_images])


def archs(accuracy: Iterable[AccuracyRow], transfer: Iterable[TransferRow]) -> list[str]:
    """Of the models that were trained here, in the order of the rows."""
    return [
        arch
        for arch in dict.fromkeys(
            [*(row.arch for row in accuracy), *(row.arch for row in transfer)]
        )
        if arch
    ]


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
                attack_eps="" if row.attack_eps is None else shown_eps(row.attack_eps),
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
    for carried in at_full_size(transfer):
        if carried.kind != "scratch":  # which looks at no source
            yield _Point(
                f"transfer {carried.method}",
                carried.subset,
                carried.eps,
                carried.seed,
                carried.score,
                target=carried.target,
                variant=carried.variant,
            )


def _same_sized(
    subsets: Sequence[str], sizes: Mapping[str, tuple[int, int]], largest: str
) -> Iterable[tuple[str, str]]:
    """The first subset with so many classes, with each later one; not those that are compared with the largest anyway."""
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
            "eps": lambda point: shown_eps(point.eps),
            "variant": lambda point: point.variant,
        },
    )


def _eps_effects(arch: str, points: Sequence[_Point], eps: float, baseline: float) -> list[Effect]:
    # Attacked models are compared under one attack only: its eps is part of what must be equal.
    return _differences(
        arch,
        points,
        "eps",
        (shown_eps(eps), shown_eps(baseline)),
        lambda point: shown_eps(point.eps),
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
            "eps": lambda point: shown_eps(point.eps),
            "attack eps": lambda point: point.attack_eps,
        },
    )


def _budget_effects(arch: str, transfer: Sequence[TransferRow]) -> list[Effect]:
    """Each subset with fewer classes against one with every class and as many images, though not all."""
    rows = [row for row in at_full_size(transfer) if row.num_classes and row.num_source_images]
    sizes = source_sizes((), rows)
    most_classes = max((classes for classes, _ in sizes.values()), default=0)
    most_images = max((images for _, images in sizes.values()), default=0)
    whole = [
        name
        for name, (classes, images) in sizes.items()
        if classes == most_classes and images < (1 - BUDGET_TOLERANCE) * most_images
    ]
    points, found = list(_points((), rows)), []
    for few in (name for name, (classes, _) in sizes.items() if whole and classes < most_classes):
        many = min(whole, key=lambda name: abs(sizes[name][1] - sizes[few][1]))
        if abs(sizes[many][1] - sizes[few][1]) <= BUDGET_TOLERANCE * sizes[many][1]:
            found += [
                replace(effect, over={**effect.over, "images": (f"{sizes[many][1]:,}",)})
                for effect in _subset_effects(arch, points, few, many, axis="budget")
            ]
    return found


def _differences(
    arch: str,
    points: Sequence[_Point],
    axis: str,
    settings: tuple[str, str],
    setting_of: Callable[[_Point], str],
    over: Mapping[str, Callable[[_Point], str]],
) -> list[Effect]:
    """For every measure, `settings[0]` minus `settings[1]` wherever the axes of `over` are equal."""
    found = []
    for measure in _measures(points):
        sides: list[dict[tuple[int, Cell], float]] = [{}, {}]
        for point in points:
            if point.measure == measure and setting_of(point) in settings:
                cell = tuple(value_of(point) for value_of in over.values())
                sides[settings.index(setting_of(point))][point.seed, cell] = point.value
        if difference := paired_difference(*sides):
            found.append(
                Effect(
                    arch,
                    axis,
                    *settings,
                    measure,
                    _values(difference.cells, list(over)),
                    difference.estimate,
                )
            )
    return found


def _measures(points: Iterable[_Point]) -> list[str]:
    there = dict.fromkeys(point.measure for point in points)
    return [
        name
        for name in (*MEASURES, *(name for name in there if name not in MEASURES))
        if name in there
    ]


def _values(cells: Sequence[Cell], axes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values that each axis takes in the cells; axes that do not apply are left out."""
    named = {
        axis: tuple(dict.fromkeys(column))
        for axis, column in zip(axes, zip(*cells, strict=True), strict=True)
    }
    return {axis: values for axis, values in named.items() if values != ("",)}
