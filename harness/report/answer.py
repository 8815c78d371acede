"""The sentences a report opens with, and the differences they rest on. Nothing is said that the numbers do not carry.

A difference is a paired one (`estimate.paired_difference`). With one seed it is given as measured, without an
interval; with more, only a difference whose 95 % t interval leaves out zero is called one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.estimate import Estimate, paired_difference
from harness.report.rows import AccuracyRow, TransferRow

_STANDARD_ERRORS_ABOVE_CHANCE = 3
MEASURES = {
    "clean common_unmasked": "common classes, clean, all answers",
    "clean common_masked": "common classes, clean, masked",
    "clean masked_minus_unmasked": "gain from masking, clean",
    "adversarial common_unmasked": "common classes, attacked, all answers",
    "adversarial common_masked": "common classes, attacked, masked",
}


@dataclass(frozen=True)
class Effect:
    """What changing one setting did to one measure, as a difference of fractions."""

    arch: str
    axis: str               # subset or eps: what was changed
    setting: str
    baseline: str
    measure: str            # a key of MEASURES, or "transfer <method>"
    over: tuple[tuple[str, tuple[str, ...]], ...]   # what was averaged within a seed: (("eps", ("0", "0.5")),)
    estimate: Estimate


def effects(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> list[Effect]:
    """Each subset against the largest one, and each eps against the smallest, averaged over all else within a seed.

    The subset effects are also given for each eps by itself.
    """
    found = []
    every_row = [*accuracy, *transfer]
    for arch in dict.fromkeys(row.arch for row in every_row):
        subsets = list(dict.fromkeys(row.subset for row in every_row if row.arch == arch))
        sizes = {row.subset: row.num_classes for row in every_row if row.arch == arch and row.num_classes}
        eps_values = sorted({row.eps for row in every_row if row.arch == arch})
        if not subsets:
            continue
        largest = max(subsets, key=lambda name: sizes.get(name, 0))
        measures = _measures(arch, accuracy, transfer)
        for subset in (name for name in subsets if name != largest):
            for chosen_eps in ([None, *eps_values] if len(eps_values) > 1 else [None]):
                found += _subset_effects(arch, measures, subset, largest, chosen_eps)
        for eps in eps_values[1:]:
            found += _eps_effects(arch, measures, eps, eps_values[0])
    return found


@dataclass(frozen=True)
class _Point:
    subset: str
    eps: float
    target: str
    attack_eps: float | str     # "" where nothing is attacked
    seed: int
    value: float


def _measures(arch: str, accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> dict[str, list[_Point]]:
    points: dict[str, list[_Point]] = {name: [] for name in MEASURES}
    unmasked = {(row.subset, row.eps, row.seed): row.top1 for row in accuracy
                if (row.arch, row.view, row.attack) == (arch, "common_unmasked", "clean")}
    for row in accuracy:
        if row.arch != arch or row.view == "own":
            continue
        points[f"{row.attack} {row.view}"].append(_Point(
            row.subset, row.eps, "", "" if row.attack_eps is None else row.attack_eps, row.seed, row.top1))
        if (row.view, row.attack) == ("common_masked", "clean") and (row.subset, row.eps, row.seed) in unmasked:
            gain = row.top1 - unmasked[row.subset, row.eps, row.seed]
            points["clean masked_minus_unmasked"].append(_Point(row.subset, row.eps, "", "", row.seed, gain))
    for carried in (row for row in transfer if row.arch == arch):
        points.setdefault(f"transfer {carried.method}", []).append(
            _Point(carried.subset, carried.eps, carried.target, "", carried.seed, carried.score))
    return {name: measured for name, measured in points.items() if measured}


def _subset_effects(arch: str, measures: dict[str, list[_Point]], subset: str, baseline: str,
                    chosen_eps: float | None) -> list[Effect]:
    found = []
    for measure, points in measures.items():
        kept = [point for point in points if chosen_eps is None or point.eps == chosen_eps]
        sides = [{(point.seed, (point.target, point.eps)): point.value for point in kept if point.subset == name}
                 for name in (subset, baseline)]
        if difference := paired_difference(*sides):
            over = _axes_of(difference.cells, ("target", "eps"))
            found.append(Effect(arch, "subset", subset, baseline, measure, over, difference.estimate))
    return found


def _eps_effects(arch: str, measures: dict[str, list[_Point]], eps: float, baseline: float) -> list[Effect]:
    found = []
    for measure, points in measures.items():
        # Attacked models are compared under the same attack only: its eps is part of the cell.
        sides = [{(point.seed, (point.target, point.subset, point.attack_eps)): point.value
                  for point in points if point.eps == value} for value in (eps, baseline)]
        if difference := paired_difference(*sides):
            over = _axes_of(difference.cells, ("target", "subset", "attack eps"))
            found.append(Effect(arch, "eps", f"{eps:g}", f"{baseline:g}", measure, over, difference.estimate))
    return found


def _axes_of(cells: Sequence[object], axes: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    columns = zip(*(cell for cell in cells if isinstance(cell, tuple)), strict=True)
    named = {axis: tuple(dict.fromkeys(f"{value:g}" if isinstance(value, float) else str(value) for value in column))
             for axis, column in zip(axes, columns, strict=True)}
    return tuple((axis, values) for axis, values in named.items() if values != ("",))


def sentences(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow],
              all_effects: Sequence[Effect]) -> list[str]:
    """Two or three sentences an arch: what fewer classes did, what robustness did, and how sure that is."""
    if not accuracy and not transfer:
        return ["No model of this recipe has been evaluated or transferred yet, so there is nothing to answer with."]
    said = []
    archs = list(dict.fromkeys(row.arch for row in [*accuracy, *transfer]))
    for arch in archs:
        mine = [effect for effect in all_effects if effect.arch == arch]
        lead = f"{arch}: " if len(archs) > 1 else ""
        said += [lead + text for text in (_about_classes(mine, accuracy, transfer), _about_eps(mine)) if text]
    if not said:
        said.append("Not enough models have finished to compare two settings: the tables show those that have.")
    said.append(_about_chance(accuracy, transfer))
    said.append(_about_certainty(accuracy, transfer))
    return [text for text in said if text]


def _about_classes(mine: Sequence[Effect], accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> str:
    """The smallest subset against the largest, over every eps."""
    sizes = {row.subset: row.num_classes or math.inf for row in [*accuracy, *transfer]}
    of_classes = [effect for effect in mine if effect.axis == "subset"]
    if not of_classes:
        return ""
    smallest = min((effect.setting for effect in of_classes), key=lambda name: sizes.get(name, math.inf))
    widest: dict[str, Effect] = {}
    for effect in of_classes:       # the first of a measure is the one over every eps
        if effect.setting == smallest:
            widest.setdefault(effect.measure, effect)
    baseline = next(iter(widest.values())).baseline
    said = []
    unmasked, masked = widest.get("clean common_unmasked"), widest.get("clean common_masked")
    if unmasked and masked:
        num_common = next((row.num_answers for row in accuracy if row.view == "common_masked"), None)
        said.append(f"clean top-1 on the {num_common} common classes by {_points(unmasked.estimate)} when any of the "
                    f"model's classes may be answered, and by {_points(masked.estimate)} when only common ones may")
    carried = {name.removeprefix("transfer "): effect for name, effect in widest.items() if name.startswith("transfer ")}
    if carried:
        parts = [f"{_points(effect.estimate)} ({method})" for method, effect in carried.items()]
        said.append(f"transfer by {' and '.join(parts)}, {_over(next(iter(carried.values())))}")
    if not said:
        return ""
    text = (f"Pretraining on {_sized(smallest, sizes)} instead of {_sized(baseline, sizes)} changed "
            + "; and ".join(said) + ".")
    return f"{text} {_reading(unmasked, masked)}".strip()


def _reading(unmasked: Effect | None, masked: Effect | None) -> str:
    """Whether a gain on common classes is more than fewer wrong answers to choose from (control K8)."""
    if not unmasked or not masked or unmasked.estimate.mean <= 0:
        return ""
    if unmasked.estimate.num_seeds == 1:
        if masked.estimate.mean < unmasked.estimate.mean / 2:
            return "In this one run most of that gain goes when only common classes may be answered."
        return ""
    if not unmasked.estimate.is_clear:
        return ""
    if not masked.estimate.is_clear:
        return "The gain is one of fewer wrong answers to choose from; that the features got better is not shown."
    if masked.estimate.mean > 0:
        return "A gain remains when only common classes may be answered, so it is not only fewer wrong answers."
    return ""


def _about_eps(mine: Sequence[Effect]) -> str:
    """The largest eps against the smallest."""
    of_eps = [effect for effect in mine if effect.axis == "eps"]
    if not of_eps:
        return ""
    largest = max((effect.setting for effect in of_eps), key=float)
    chosen = {effect.measure: effect for effect in of_eps if effect.setting == largest}
    parts = [f"transfer by {_points(effect.estimate)} ({name.removeprefix('transfer ')})"
             for name, effect in chosen.items() if name.startswith("transfer ")]
    if clean := chosen.get("clean common_unmasked"):
        parts.insert(0, f"clean top-1 on the common classes by {_points(clean.estimate)}")
    if attacked := chosen.get("adversarial common_unmasked"):
        at = dict(attacked.over)["attack eps"]
        parts.insert(1, f"top-1 under attack at eps {', '.join(at)} by {_points(attacked.estimate)}")
    if not parts:
        return ""
    baseline = next(iter(chosen.values())).baseline
    return f"Robust pretraining at eps {largest} instead of {baseline} changed {', '.join(parts[:-1])}" + (
        " and " if len(parts) > 1 else "") + parts[-1] + "."


def _about_chance(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> str:
    parts = []
    masked = {row.num_answers for row in accuracy if row.view == "common_masked"}
    unmasked = {row.num_answers for row in accuracy if row.view == "common_unmasked" and row.num_answers}
    if masked and unmasked:
        parts.append(f"{_span(unmasked)} on the common classes ({_span(masked)} masked)")
    targets = {row.num_answers for row in transfer if row.num_answers}
    if targets:
        parts.append(f"{_span(targets)} on the targets")
    text = f"Chance is {' and '.join(parts)}." if parts else ""
    low = [row for row in accuracy if row.view != "own" and _is_near_chance(row)]
    low_transfers = [row for row in transfer if _is_near_chance(row)]
    num_rows = sum(row.view != "own" for row in accuracy) + len(transfer)
    if low or low_transfers:
        text += (f" {len(low) + len(low_transfers)} of {num_rows} accuracies are not clearly above it (marked ° in the "
                 "tables): differences among those say nothing.")
    return text


def is_near_chance(top1: float, num_answers: int | None, num_images: int) -> bool:
    """Whether top-1 lies within three binomial standard errors of chance (or below)."""
    if not num_answers or num_images < 1:
        return False
    chance = 1 / num_answers
    return top1 <= chance + _STANDARD_ERRORS_ABOVE_CHANCE * math.sqrt(chance * (1 - chance) / num_images)


def _is_near_chance(row: AccuracyRow | TransferRow) -> bool:
    return is_near_chance(row.top1, row.num_answers, row.num_images)


def _about_certainty(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> str:
    seeds = {row.seed for row in [*accuracy, *transfer]}
    if len(seeds) > 1:
        return (f"± after a difference is half a 95 % t interval over {len(seeds)} seeds where all have finished; "
                "it does not cover the choice of test images.")
    noise = ""
    common = [row for row in accuracy if (row.view, row.attack) == ("common_unmasked", "clean")]
    if common:
        row = min(common, key=lambda row: row.num_images)
        points = 196 * math.sqrt(2 * row.top1 * (1 - row.top1) / row.num_images)
        noise = (f" The {row.num_images:,} images of the common classes alone leave up to about ± {points:.1f} points on "
                 "a difference of two models.")
    return f"One seed, no interval: these are single runs, and another seed may differ.{noise}"


def _points(estimate: Estimate) -> str:
    """`+1.2 ± 0.3 points`; says so where the interval holds zero, or where seeds are missing for one."""
    text = f"{100 * estimate.mean:+.1f}".replace("-", "−")
    if estimate.half_width is None:
        return f"{text} points"
    text = f"{text} ± {100 * estimate.half_width:.1f} points"
    return text if estimate.is_clear else f"{text} (not distinguishable from none)"


def _over(effect: Effect) -> str:
    parts = []
    for axis, values in effect.over:
        noun = {"target": "targets", "eps": "eps", "subset": "subsets"}[axis]
        parts.append(f"{noun} {', '.join(values)}" if axis == "eps" else f"{len(values)} {noun}")
    return f"averaged over {' and '.join(parts)}" if parts else ""


def _sized(subset: str, sizes: dict[str, float]) -> str:
    size = sizes.get(subset, math.inf)
    return subset if math.isinf(size) else f"{subset} ({size:.0f} classes)"


def _span(num_answers: set[int | None]) -> str:
    chances = sorted({f"{100 / n:.1f}" for n in num_answers if n}, key=float)
    return f"{chances[0]} %" if len(chances) == 1 else f"{chances[0]} to {chances[-1]} %"
