"""What changing one setting did: each subset against the largest, each eps against the smallest, paired by seed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.report.estimate import Cell, Estimate, paired_difference
from harness.report.rows import AccuracyRow, TransferRow

MASKING = "clean masked_minus_unmasked"
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
    axis: str                                       # subset or eps: what was changed
    setting: str
    baseline: str
    measure: str                                    # a key of MEASURES, or "transfer <method>" in the targets' metrics
    over: Mapping[str, tuple[str, ...]]             # {"eps": ("0", "0.5"), "target": ("pets",)}
    estimate: Estimate


@dataclass(frozen=True)
class DifferenceRow:
    """An Effect as a flat row: `difference`, `sd` and `half_width_95` are differences of fractions."""

    arch: str
    axis: str
    setting: str
    baseline: str
    measure: str
    over: tuple[str, ...]       # "eps=0.5"
    difference: float
    sd: float | None
    half_width_95: float | None
    num_seeds: int

    @classmethod
    def of(cls, effect: Effect) -> "DifferenceRow":
        over = tuple(f"{axis}={value}" for axis, values in effect.over.items() for value in values)
        return cls(effect.arch, effect.axis, effect.setting, effect.baseline, effect.measure, over,
                   effect.estimate.mean, effect.estimate.sd, effect.estimate.half_width, effect.estimate.num_seeds)


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


def effects(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> list[Effect]:
    """Every difference that both sides have been measured for, arch by arch.

    Subset effects come averaged over every eps, then, where there are several, for each eps by itself.
    """
    found: list[Effect] = []
    for arch in archs(accuracy, transfer):
        mine = [row for row in accuracy if row.arch == arch], [row for row in transfer if row.arch == arch]
        points = list(_points(*mine))
        sizes = class_counts(*mine)
        subsets = list(dict.fromkeys(point.subset for point in points))
        eps_values = sorted({point.eps for point in points})
        largest = max(subsets, key=lambda name: sizes.get(name, 0), default="")
        for subset in subsets:
            if subset != largest:
                found += _subset_effects(arch, points, subset, largest)
                for eps in eps_values if len(eps_values) > 1 else ():
                    found += _subset_effects(arch, [point for point in points if point.eps == eps], subset, largest)
        for eps in eps_values[1:]:
            found += _eps_effects(arch, points, eps, eps_values[0])
    return found


def class_counts(accuracy: Iterable[AccuracyRow], transfer: Iterable[TransferRow]) -> dict[str, int]:
    """Subset -> number of its classes, for those where it is known."""
    rows: list[AccuracyRow | TransferRow] = [*accuracy, *transfer]
    return {row.subset: row.num_classes for row in rows if row.num_classes is not None}


def archs(accuracy: Iterable[AccuracyRow], transfer: Iterable[TransferRow]) -> list[str]:
    """In the order of the rows."""
    return list(dict.fromkeys([*(row.arch for row in accuracy), *(row.arch for row in transfer)]))


def _points(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> Iterable[_Point]:
    unmasked = {(row.subset, row.eps, row.seed): row.top1 for row in accuracy
                if (row.view, row.attack) == ("common_unmasked", "clean")}
    for row in accuracy:
        if row.view != "own":
            yield _Point(f"{row.attack} {row.view}", row.subset, row.eps, row.seed, row.top1,
                         attack_eps="" if row.attack_eps is None else f"{row.attack_eps:g}")
        if (row.view, row.attack) == ("common_masked", "clean") and (row.subset, row.eps, row.seed) in unmasked:
            gain = row.top1 - unmasked[row.subset, row.eps, row.seed]
            yield _Point(MASKING, row.subset, row.eps, row.seed, gain)
    for carried in transfer:
        yield _Point(f"transfer {carried.method}", carried.subset, carried.eps, carried.seed, carried.score,
                     target=carried.target)


def _subset_effects(arch: str, points: Sequence[_Point], subset: str, baseline: str) -> list[Effect]:
    return _differences(arch, points, "subset", (subset, baseline), lambda point: point.subset,
                        {"target": lambda point: point.target, "eps": lambda point: f"{point.eps:g}"})


def _eps_effects(arch: str, points: Sequence[_Point], eps: float, baseline: float) -> list[Effect]:
    # Attacked models are compared under one attack only: its eps is part of what must be equal.
    return _differences(arch, points, "eps", (f"{eps:g}", f"{baseline:g}"), lambda point: f"{point.eps:g}",
                        {"target": lambda point: point.target, "subset": lambda point: point.subset,
                         "attack eps": lambda point: point.attack_eps})


def _differences(arch: str, points: Sequence[_Point], axis: str, settings: tuple[str, str],
                 setting_of: Callable[[_Point], str], over: Mapping[str, Callable[[_Point], str]]) -> list[Effect]:
    """For every measure, `settings[0]` minus `settings[1]` wherever the axes of `over` are equal."""
    found = []
    for measure in _measures(points):
        sides: list[dict[tuple[int, Cell], float]] = [{}, {}]
        for point in points:
            if point.measure == measure and setting_of(point) in settings:
                cell = tuple(value_of(point) for value_of in over.values())
                sides[settings.index(setting_of(point))][point.seed, cell] = point.value
        if difference := paired_difference(*sides):
            found.append(Effect(arch, axis, *settings, measure, _values(difference.cells, list(over)),
                                difference.estimate))
    return found


def _measures(points: Iterable[_Point]) -> list[str]:
    there = dict.fromkeys(point.measure for point in points)
    return [name for name in (*MEASURES, *(name for name in there if name not in MEASURES)) if name in there]


def _values(cells: Sequence[Cell], axes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values that each axis takes in the cells; axes that do not apply are left out."""
    named = {axis: tuple(dict.fromkeys(column)) for axis, column in zip(axes, zip(*cells, strict=True), strict=True)}
    return {axis: values for axis, values in named.items() if values != ("",)}
