"""Write the sentences that open a report. They claim only what the numbers support.

With one seed, a difference is stated as measured, without an interval. With several, a difference
is marked `not clear` unless its 95 % t interval excludes zero.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from harness.report.data.records import AccuracyRow, TransferRow
from harness.report.stats.effects import MASKING, Effect, archs, smallest_subset, source_sizes
from harness.report.stats.intervals import is_near_chance
from harness.report.text.caveats import max_sampling_error
from harness.report.text.phrases import averaged_over, in_points, join_words

Size = tuple[int, int]  # classes and training images of a subset
MAX_OTHER_SUBSETS = 3  # largest number of further subsets in the text; the table has all


def answers(
    accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow], effects: Sequence[Effect]
) -> list[str]:
    """Write one paragraph per changed setting, for each arch.

    The settings are the number of classes, the choice of classes, eps, the budget and the variant.
    """
    paragraphs = []
    every_arch = archs(accuracy, transfer)
    sizes = source_sizes(accuracy, transfer)
    for arch in every_arch:
        of_arch = [effect for effect in effects if effect.arch == arch]
        texts = (
            _about_classes(of_arch, accuracy, transfer, sizes),
            _about_which_classes(of_arch, sizes),
            _about_eps(of_arch),
            _about_budget(of_arch),
            _about_variants(of_arch),
        )
        paragraphs += [f"{arch}: {text}" if len(every_arch) > 1 else text for text in texts if text]
    return paragraphs


def headline(
    accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow], effects: Sequence[Effect]
) -> str:
    """Write the answer in one sentence: how the smallest subset changes transfer, by target.

    With several architectures, the first one with a comparison is used. Returns "" if the recipe
    does not compare subsets on several targets.
    """
    sizes = source_sizes(accuracy, transfer)
    every_arch = archs(accuracy, transfer)
    for arch in every_arch:
        of_arch = [effect for effect in effects if effect.arch == arch]
        if text := _by_target(of_arch, transfer, sizes):
            return f"{arch}: {text}" if len(every_arch) > 1 else text
    return ""


def about_robustness(
    accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow], effects: Sequence[Effect]
) -> str:
    """Return the paragraph of `answers` that compares the largest eps with the smallest.

    With several architectures, the first one with a comparison is used. Returns "" if the recipe
    has one eps.
    """
    every_arch = archs(accuracy, transfer)
    for arch in every_arch:
        if text := _about_eps([effect for effect in effects if effect.arch == arch]):
            return f"{arch}: {text}" if len(every_arch) > 1 else text
    return ""


def _about_classes(
    effects: Sequence[Effect],
    accuracy: Sequence[AccuracyRow],
    transfer: Sequence[TransferRow],
    sizes: Mapping[str, Size],
) -> str:
    """Compare the smallest subset with the largest, averaged over every eps."""
    of_subsets = [effect for effect in effects if effect.axis == "subset"]
    if not of_subsets:
        return ""
    baseline = of_subsets[0].baseline
    smallest = smallest_subset(sizes, [effect.setting for effect in of_subsets], baseline)
    chosen: dict[str, Effect] = {}
    for effect in of_subsets:  # the first effect of a measure is the mean over every eps
        if effect.setting == smallest:
            chosen.setdefault(effect.measure, effect)
    by_images = sizes.get(smallest, (0, 0))[0] == sizes.get(baseline, (0, 0))[0]
    smaller, larger = (_sized(name, sizes, by_images) for name in (smallest, baseline))
    changes = []
    unmasked, masked = chosen.get("clean common_unmasked"), chosen.get("clean common_masked")
    if unmasked and masked:
        num_common = next(row.num_answers for row in accuracy if row.view == "common_masked")
        changes = [
            (f"clean top-1 on the {num_common:,} common classes", in_points(unmasked.difference)),
            ("masked top-1", in_points(masked.difference)),
        ]
    if amounts := _by_method(chosen):
        changes.append(("transfer", amounts))
    if not changes:
        return ""
    text = _changes(f"Pretraining on {smaller} instead of {larger}", changes)
    sentences = [
        f"{text}{_averages(chosen.values())}",
        _by_target(effects, transfer, sizes),
        _interpretation(chosen, accuracy),
        _other_subsets(of_subsets, smallest),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _by_target(
    effects: Sequence[Effect], transfer: Sequence[TransferRow], sizes: Mapping[str, Size]
) -> str:
    """State the lowest and the highest change of transfer among the targets."""
    by_target = [effect for effect in effects if effect.axis == "subset_by_target"]
    if not by_target:
        return ""
    baseline = by_target[0].baseline
    smallest = smallest_subset(sizes, [effect.setting for effect in by_target], baseline)
    of_smallest = sorted(
        (effect for effect in by_target if effect.setting == smallest),
        key=lambda effect: effect.difference.mean,
    )
    lowest, highest = of_smallest[0], of_smallest[-1]
    named = (lowest, highest) if len(of_smallest) > 1 else (lowest,)
    at_chance = [_is_at_chance(effect, transfer) for effect in named]
    remarks = [" (not clearly above chance)" if is_low else "" for is_low in at_chance]
    if all(at_chance):  # one remark for all
        remarks[:-1] = [""] * (len(remarks) - 1)
        remarks[-1] = " (none clearly above chance)"
    changes = " and by ".join(
        f"{in_points(effect.difference)} on {effect.over['target'][0]}{remark}"
        for effect, remark in zip(named, remarks, strict=True)
    )
    which = "" if len(of_smallest) <= 2 else f", the extremes of {len(of_smallest):,} targets"
    single = ", with one seed" if all(effect.difference.num_seeds == 1 for effect in named) else ""
    return f"{smallest} instead of {baseline} changed transfer by {changes}{which}{single}."


def _is_at_chance(effect: Effect, transfer: Sequence[TransferRow]) -> bool:
    """Return True if no accuracy that the effect compares is clearly above chance."""
    return all(
        row.top1 is not None and is_near_chance(row.top1, row.num_answers, row.num_images)
        for row in transfer
        if row.arch == effect.arch
        and row.subset in (effect.setting, effect.baseline)
        and row.target in effect.over["target"]
    )


def _other_subsets(of_subsets: Sequence[Effect], smallest: str) -> str:
    """State the clear differences of the subsets that are not the smallest."""
    first: dict[tuple[str, str], Effect] = {}
    for effect in of_subsets:  # the first effect of a measure is the mean over every eps
        first.setdefault((effect.setting, effect.measure), effect)
    clear: dict[str, dict[str, Effect]] = {}
    for (setting, measure), effect in first.items():
        is_reported = measure == "clean common_unmasked" or measure.startswith("transfer ")
        if setting != smallest and is_reported and effect.difference.is_clear:
            clear.setdefault(setting, {})[measure] = effect
    sentences = []
    for setting, chosen in list(clear.items())[:MAX_OTHER_SUBSETS]:
        changes = []
        if clean := chosen.get("clean common_unmasked"):
            changes.append(("clean top-1 on the common classes", in_points(clean.difference)))
        if amounts := _by_method(chosen):
            changes.append(("transfer", amounts))
        baseline = of_subsets[0].baseline
        sentences.append(_changes(f"{setting} instead of {baseline}", changes))
    if num_more := len(clear) - len(sentences):
        have = "subset has" if num_more == 1 else "subsets have"
        sentences.append(f"{num_more:,} more {have} clear differences, listed in the table.")
    return f"Other clear differences: {' '.join(sentences)}" if sentences else ""


def _interpretation(chosen: Mapping[str, Effect], accuracy: Sequence[AccuracyRow]) -> str:
    """State if a gain on common classes comes only from having fewer wrong classes to choose from.

    Returns "" if the numbers do not allow a decision.
    """
    if not {"clean common_unmasked", "clean common_masked", MASKING} <= set(chosen):
        return ""
    clean = [row for row in accuracy if (row.view, row.attack) == ("common_unmasked", "clean")]
    if all(is_near_chance(row.top1, row.num_answers, row.num_images) for row in clean):
        return ""
    unmasked, masked, masking = (
        chosen[measure].difference
        for measure in ("clean common_unmasked", "clean common_masked", MASKING)
    )
    if unmasked.num_seeds == 1:
        if unmasked.mean > max_sampling_error(accuracy) and masked.mean < unmasked.mean / 2:
            return (
                "In these single runs, most of the gain on common classes disappears when only "
                "those may be predicted."
            )
        return ""
    if not unmasked.is_clear or unmasked.mean < 0:
        return ""
    if masked.is_clear and masked.mean > 0:
        return (
            "The gain on common classes remains when only those may be predicted: it is more than "
            "having fewer wrong classes to choose from."
        )
    if not masked.is_clear and masking.is_clear and masking.mean < 0:
        return (
            "The gain on common classes comes from having fewer wrong classes to choose from; "
            "better features are not shown."
        )
    return ""


def _about_which_classes(effects: Sequence[Effect], sizes: Mapping[str, Size]) -> str:
    """Compare the smallest subset with its controls: other subsets with as many classes."""
    controlled = [effect for effect in effects if effect.axis == "same_size"]
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
    return (
        f"With equal numbers of classes, {_each_change(chosen)}"
        f"{_averages(chosen, _at_one_eps(chosen, effects))}"
    )


def _about_eps(effects: Sequence[Effect]) -> str:
    """Compare the largest eps with the smallest."""
    of_eps = [effect for effect in effects if effect.axis == "eps"]
    if not of_eps:
        return ""
    largest = of_eps[-1].setting  # effects are sorted by eps
    chosen = {effect.measure: effect for effect in of_eps if effect.setting == largest}
    changes = []
    if clean := chosen.get("clean common_unmasked"):
        changes.append(("clean top-1 on the common classes", in_points(clean.difference)))
    if attacked := chosen.get("adversarial common_unmasked"):
        radii = ", ".join(attacked.over["attack eps"])
        changes.append((f"top-1 under attack at eps {radii}", in_points(attacked.difference)))
    if amounts := _by_method(chosen):
        changes.append(("transfer", amounts))
    if not changes:
        return ""
    baseline = next(iter(chosen.values())).baseline
    text = _changes(f"Robust pretraining at eps {largest} instead of {baseline}", changes)
    return f"{text}{_averages(chosen.values())}"


def _about_budget(effects: Sequence[Effect]) -> str:
    """Compare more classes with more images per class.

    For each number of images the first subset with fewer classes is used.
    """
    of_budgets = [effect for effect in effects if effect.axis == "budget"]
    first = {effect.baseline: effect.setting for effect in reversed(of_budgets)}
    chosen = [effect for effect in of_budgets if first[effect.baseline] == effect.setting]
    if not chosen:
        return ""
    budgets = list(dict.fromkeys(value for effect in chosen for value in effect.over["images"]))
    return (
        f"With equal numbers of pretraining images ({join_words(budgets)}), {_each_change(chosen)}"
        f"{_averages(chosen, _at_one_eps(chosen, effects))}{_better_budget(chosen)}"
    )


def _at_one_eps(chosen: Sequence[Effect], effects: Sequence[Effect]) -> str:
    """Return e.g. ` at eps 0` if all chosen differences have one eps and the recipe has several."""
    eps = {value for effect in chosen for value in effect.over.get("eps", ())}
    has_several = any(effect.axis == "eps" for effect in effects)
    return f" at eps {eps.pop()}" if len(eps) == 1 and has_several else ""


def _changes(subject: str, changes: Sequence[tuple[str, str]]) -> str:
    """Write `Subject changed a by +1 points. B changed by +2 points.`."""
    (first, amount), *others = changes
    return f"{subject} changed {first} by {amount}." + "".join(
        f" {what[0].upper()}{what[1:]} changed by {amount}." for what, amount in others
    )


def _each_change(chosen: Sequence[Effect]) -> str:
    """Write `in800 instead of in800-random changed transfer by ...` for each pair of settings."""
    pairs = dict.fromkeys((effect.setting, effect.baseline) for effect in chosen)
    sentences: list[str] = []
    for pair in pairs:
        amounts = _by_method(
            {
                effect.measure: effect
                for effect in chosen
                if (effect.setting, effect.baseline) == pair
            }
        )
        changed = "changed it by" if sentences else "changed transfer by"
        sentences.append(f"{pair[0]} instead of {pair[1]} {changed} {amounts}.")
    return " ".join(sentences)


def _better_budget(chosen: Iterable[Effect]) -> str:
    """State which choice is better, if all differences agree."""
    signs = {
        math.copysign(1, effect.difference.mean) if effect.difference.is_clear else 0
        for effect in chosen
    }
    if signs == {-1}:
        return " With the number of images fixed, more classes were the better choice."
    if signs == {1}:
        return (
            " With the number of images fixed, fewer classes with more images each were the "
            "better choice."
        )
    return ""


def _about_variants(effects: Sequence[Effect]) -> str:
    """Compare each variant of pretraining with the base variant."""
    sentences = []
    of_variants = [effect for effect in effects if effect.axis == "variant"]
    for variant in dict.fromkeys(effect.setting for effect in of_variants):
        chosen = {effect.measure: effect for effect in of_variants if effect.setting == variant}
        changes = []
        if clean := chosen.get("clean common_unmasked"):
            changes.append(("clean top-1", in_points(clean.difference)))
        if amounts := _by_method(chosen):
            changes.append(("transfer", amounts))
        if changes:
            baseline = next(iter(chosen.values())).baseline or "plain"
            text = _changes(f"Pretraining with {variant} instead of {baseline}", changes)
            sentences.append(f"{text}{_averages(chosen.values())}")
    return " ".join(sentences)


def _by_method(chosen: Mapping[str, Effect]) -> str:
    return join_words(
        [
            in_points(effect.difference, measure.removeprefix("transfer "))
            for measure, effect in chosen.items()
            if measure.startswith("transfer ")
        ]
    )


def _averages(chosen: Iterable[Effect], at_eps: str = "") -> str:
    """State what the effects are averaged over: for each axis, the most values of any effect."""
    widest: dict[str, tuple[str, ...]] = {}
    for effect in chosen:
        for axis, values in effect.over.items():
            if axis not in ("attack eps", "images") and len(values) > len(widest.get(axis, ())):
                widest[axis] = values
    over = averaged_over(widest)
    if over:
        return f" These are averages over {over}{at_eps}."
    return f" All models are{at_eps}." if at_eps else ""


def _sized(subset: str, sizes: Mapping[str, Size], by_images: bool) -> str:
    if subset not in sizes:
        return subset
    return f"{subset} ({sizes[subset][by_images]:,} {'images' if by_images else 'classes'})"
