"""The sentences a report opens with, made from the numbers. Nothing is said that the numbers do not carry.

With one seed a difference is given as measured, without an interval; with more, only a difference whose 95 % t interval
leaves out zero passes without the remark that it is not clear.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from harness.report.data.rows import AccuracyRow, TransferRow
from harness.report.stats.effects import MASKING, Effect, archs, smallest_subset, source_sizes
from harness.report.stats.intervals import Estimate, difference_noise, is_near_chance

Size = tuple[int, int]  # classes and training images of a subset


def answers(
    accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow], effects: Sequence[Effect]
) -> list[str]:
    """For each arch: what fewer classes did, whether it matters which, what robustness did, and what else was varied."""
    said = []
    every_arch = archs(accuracy, transfer)
    for arch in every_arch:
        mine = [effect for effect in effects if effect.arch == arch]
        sizes = source_sizes(accuracy, transfer)
        texts = (
            _about_classes(mine, accuracy, sizes),
            _about_which_classes(mine, sizes),
            _about_eps(mine),
            _about_budget(mine),
            _about_variants(mine),
        )
        said += [f"{arch}: {text}" if len(every_arch) > 1 else text for text in texts if text]
    return said


def why_none(*, any_measured: bool) -> str:
    """What is said where no sentence can be made."""
    if any_measured:
        return "No two settings that could be compared have both finished: the tables show what there is."
    return "No model of this recipe has been evaluated or transferred yet, so there is nothing to answer with."


def caveats(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> list[str]:
    """Chance, and how sure the answers are."""
    if not accuracy and not transfer:
        return []
    return [
        text
        for text in (_about_chance(accuracy, transfer), _about_certainty(accuracy, transfer))
        if text
    ]


def _about_classes(
    mine: Sequence[Effect], accuracy: Sequence[AccuracyRow], sizes: Mapping[str, Size]
) -> str:
    """The smallest subset against the largest, over every eps."""
    of_classes = [effect for effect in mine if effect.axis == "subset"]
    if not of_classes:
        return ""
    smallest = smallest_subset(
        sizes, [effect.setting for effect in of_classes], of_classes[0].baseline
    )
    chosen: dict[str, Effect] = {}
    for effect in of_classes:  # the first of a measure is the one over every eps
        if effect.setting == smallest:
            chosen.setdefault(effect.measure, effect)
    said = []
    unmasked, masked = chosen.get("clean common_unmasked"), chosen.get("clean common_masked")
    if unmasked and masked:
        num_common = next(row.num_answers for row in accuracy if row.view == "common_masked")
        said.append(
            f"clean top-1 on the {num_common} common classes by {in_points(unmasked.estimate)} when any class "
            f"that the model knows may be answered and by {in_points(masked.estimate)} when only common ones may"
        )
    if carried := _by_method(chosen):
        said.append(f"transfer by {carried}")
    if not said:
        return ""
    baseline = next(iter(chosen.values())).baseline
    by_images = sizes.get(smallest, (0, 0))[0] == sizes.get(baseline, (0, 0))[0]
    smaller, larger = (_sized(name, sizes, by_images) for name in (smallest, baseline))
    return (
        f"Pretraining on {smaller} instead of {larger} changed "
        f"{', and '.join(said)}{_over(chosen.values())}. {_reading(chosen, accuracy)}"
    ).strip()


def _reading(chosen: Mapping[str, Effect], accuracy: Sequence[AccuracyRow]) -> str:
    """Whether a gain on common classes is more than fewer wrong answers to choose from, where that can be told."""
    if not {"clean common_unmasked", "clean common_masked", MASKING} <= set(chosen):
        return ""
    unmasked, masked, masking = (
        chosen[measure].estimate
        for measure in ("clean common_unmasked", "clean common_masked", MASKING)
    )
    if unmasked.num_seeds == 1:
        if unmasked.mean > _noise(accuracy) and masked.mean < unmasked.mean / 2:
            return "In these single runs most of that gain goes when only common classes may be answered."
        return ""
    if not unmasked.is_clear or unmasked.mean < 0:
        return ""
    if masked.is_clear and masked.mean > 0:
        return (
            "A gain stays when only common classes may be answered: it is more than fewer wrong answers to choose "
            "from."
        )
    if not masked.is_clear and masking.is_clear and masking.mean < 0:
        return (
            "The gain comes with having fewer wrong answers to choose from; "
            "that the features got better is not shown."
        )
    return ""


def _about_which_classes(mine: Sequence[Effect], sizes: Mapping[str, Size]) -> str:
    """The smallest subset against its controls: the others with as many classes."""
    controlled = [effect for effect in mine if effect.axis == "same_size"]
    smallest = min(
        (effect.setting for effect in controlled), key=lambda name: sizes[name][0], default=""
    )
    chosen = [
        effect
        for effect in controlled
        if effect.setting == smallest and effect.measure.startswith("transfer ")
    ]
    if not chosen:
        return ""
    return f"At equal numbers of classes, {_each_change(chosen)}{_over(chosen)}{_at_one_eps(chosen, mine)}."


def _about_eps(mine: Sequence[Effect]) -> str:
    """The largest eps against the smallest."""
    of_eps = [effect for effect in mine if effect.axis == "eps"]
    if not of_eps:
        return ""
    largest = of_eps[-1].setting  # they come in this order
    chosen = {effect.measure: effect for effect in of_eps if effect.setting == largest}
    said = []
    if clean := chosen.get("clean common_unmasked"):
        said.append(f"clean top-1 on the common classes by {in_points(clean.estimate)}")
    if attacked := chosen.get("adversarial common_unmasked"):
        radii = ", ".join(attacked.over["attack eps"])
        said.append(f"top-1 under attack at eps {radii} by {in_points(attacked.estimate)}")
    if carried := _by_method(chosen):
        said.append(f"transfer by {carried}")
    if not said:
        return ""
    baseline = next(iter(chosen.values())).baseline
    return f"Robust pretraining at eps {largest} instead of {baseline} changed {_listed(said)}{_over(chosen.values())}."


def _about_budget(mine: Sequence[Effect]) -> str:
    """More classes or more images of each: of each number of images the first subset with fewer classes."""
    found = [effect for effect in mine if effect.axis == "budget"]
    first = {effect.baseline: effect.setting for effect in reversed(found)}
    chosen = [effect for effect in found if first[effect.baseline] == effect.setting]
    if not chosen:
        return ""
    budgets = list(dict.fromkeys(value for effect in chosen for value in effect.over["images"]))
    return (
        f"At equal numbers of pretraining images ({_listed(budgets)}), {_each_change(chosen)}{_over(chosen)}"
        f"{_at_one_eps(chosen, mine)}.{_which_budget(chosen)}"
    )


def _at_one_eps(chosen: Sequence[Effect], mine: Sequence[Effect]) -> str:
    """Which of several eps the chosen differences are of, where it is one."""
    eps = {value for effect in chosen for value in effect.over.get("eps", ())}
    return (
        f" at eps {eps.pop()}"
        if len(eps) == 1 and any(effect.axis == "eps" for effect in mine)
        else ""
    )


def _each_change(chosen: Sequence[Effect]) -> str:
    """`in800 instead of in800-random changed transfer by ...`, for every pair of settings."""
    pairs = dict.fromkeys((effect.setting, effect.baseline) for effect in chosen)
    said = [
        (
            setting,
            baseline,
            _by_method(
                {
                    effect.measure: effect
                    for effect in chosen
                    if (effect.setting, effect.baseline) == (setting, baseline)
                }
            ),
        )
        for setting, baseline in pairs
    ]
    return "; ".join(
        f"{setting} instead of {baseline} {'' if place else 'changed transfer '}by {by}"
        for place, (setting, baseline, by) in enumerate(said)
    )


def _which_budget(chosen: Iterable[Effect]) -> str:
    """What to choose, where every difference says the same."""
    signs = {
        math.copysign(1, effect.estimate.mean) if effect.estimate.is_clear else 0
        for effect in chosen
    }
    if signs == {-1}:
        return " With the number of images fixed, more classes were the better choice."
    if signs == {1}:
        return " With the number of images fixed, fewer classes with more images each were the better choice."
    return ""


def _about_variants(mine: Sequence[Effect]) -> str:
    """Each variant of pretraining against the plain one."""
    said = []
    for variant in dict.fromkeys(effect.setting for effect in mine if effect.axis == "variant"):
        chosen = {
            effect.measure: effect
            for effect in mine
            if (effect.axis, effect.setting) == ("variant", variant)
        }
        parts = []
        if clean := chosen.get("clean common_unmasked"):
            parts.append(f"clean top-1 by {in_points(clean.estimate)}")
        if carried := _by_method(chosen):
            parts.append(f"transfer by {carried}")
        if parts:
            said.append(
                f"{variant} instead of {next(iter(chosen.values())).baseline or 'plain'} pretraining changed "
                f"{_listed(parts)}{_over(chosen.values())}"
            )
    return f"Of pretraining, {'; '.join(said)}." if said else ""


def _by_method(chosen: Mapping[str, Effect]) -> str:
    return _listed(
        [
            in_points(effect.estimate, measure.removeprefix("transfer "))
            for measure, effect in chosen.items()
            if measure.startswith("transfer ")
        ]
    )


def _over(chosen: Iterable[Effect]) -> str:
    """The widest that any of the effects was averaged over."""
    widest: dict[str, tuple[str, ...]] = {}
    for effect in chosen:
        for axis, values in effect.over.items():
            if axis != "attack eps" and len(values) > len(widest.get(axis, ())):
                widest[axis] = values
    return over(widest)


def over(averaged: Mapping[str, Sequence[str]]) -> str:
    """`, averaged over 2 targets and eps 0, 0.5`; nothing for axes with one value."""
    parts = [
        f"eps {', '.join(values)}" if axis == "eps" else f"{len(values)} {axis}s"
        for axis, values in averaged.items()
        if len(values) > 1
    ]
    return f", averaged over {_listed(parts)}" if parts else ""


def _about_chance(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> str:
    parts = []
    masked = {
        row.num_answers for row in accuracy if row.view == "common_masked" and row.num_answers
    }
    unmasked = {
        row.num_answers for row in accuracy if row.view == "common_unmasked" and row.num_answers
    }
    if masked and unmasked:
        parts.append(f"{_chances(unmasked)} on the common classes ({_chances(masked)} masked)")
    if targets := {row.num_answers for row in transfer if row.num_answers}:
        parts.append(f"{_chances(targets)} on the targets")
    text = f"Chance is {' and '.join(parts)}." if parts else ""
    rows: list[AccuracyRow | TransferRow] = [
        *(row for row in accuracy if row.view != "own"),
        *transfer,
    ]
    low = sum(is_near_chance(row.top1, row.num_answers, row.num_images) for row in rows)
    if low:
        text += (
            f" {low:,} of {len(rows):,} accuracies are not clearly above it (marked ° in the tables): differences "
            "between those say nothing."
        )
    return text


def _about_certainty(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> str:
    num_seeds = len({row.seed for row in accuracy} | {row.seed for row in transfer})
    if num_seeds > 1:
        return (
            f"± is half a 95 % t interval over up to {num_seeds} seeds, paired by seed, or over the targets where that is "
            "said; it does not cover the choice of test images. “Not clear”: the interval holds zero."
        )
    text = "One seed, no interval over repeats: these are single runs, and another seed may differ."
    noise = []
    if common := [row.num_images for row in accuracy if row.view == "common_unmasked"]:
        noise.append((f"{min(common):,} images of the common classes", _noise(accuracy)))
    if transfer:
        smallest = min(transfer, key=lambda row: row.num_images)
        most = max(
            difference_noise(row.score, row.num_images)
            for row in transfer
            if row.target == smallest.target
        )
        noise.append((f"{smallest.num_images:,} test images of {smallest.target}", most))
    if noise:
        (what, most), *others = noise
        text += f" The {what} alone leave up to about ± {100 * most:.1f} points on a difference between two models"
        text += "".join(f"; the {what} up to ± {100 * most:.1f}" for what, most in others) + "."
    return text


def _noise(accuracy: Sequence[AccuracyRow]) -> float:
    """What the number of images alone leaves open on a difference of two clean accuracies, as a fraction."""
    return max(
        (
            difference_noise(row.top1, row.num_images)
            for row in accuracy
            if (row.view, row.attack) == ("common_unmasked", "clean")
        ),
        default=0.0,
    )


def in_points(estimate: Estimate, *remarks: str) -> str:
    """`+1.2 ± 0.3 points (full)`; remarks that it is not clear where the interval holds zero."""
    text = f"{100 * estimate.mean:+.1f}".replace("-", "−")
    if estimate.half_width is not None:
        text += f" ± {100 * estimate.half_width:.1f}"
        remarks = remarks if estimate.is_clear else (*remarks, "not clear")
    return f"{text} points" + (f" ({', '.join(remarks)})" if remarks else "")


def _sized(subset: str, sizes: Mapping[str, Size], by_images: bool) -> str:
    if subset not in sizes:
        return subset
    return f"{subset} ({sizes[subset][by_images]:,} {'images' if by_images else 'classes'})"


def _chances(num_answers: set[int]) -> str:
    chances = sorted({f"{100 / number:.1f}" for number in num_answers}, key=float)
    return f"{chances[0]} %" if len(chances) == 1 else f"{chances[0]} to {chances[-1]} %"


def _listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
