"""Write sentences about many models and targets.

They cover predictors of transfer, methods, models, scratch and induction. For predictors and
methods, the targets are the sample: `±` is half the width of a 95 % t interval over targets, and
`not clear` means that the interval includes zero. Other intervals are over architectures, models or
seeds.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from harness.config.recipe import ShortlistSettings
from harness.report.data.induction import Induction
from harness.report.data.records import ScoreRow, format_eps
from harness.report.stats.analysis import Analysis
from harness.report.stats.architectures import Association
from harness.report.stats.comparisons import ScratchComparison
from harness.report.stats.convergence import FRACTION, Speedup
from harness.report.stats.intervals import (
    Condition,
    PairedDifference,
    is_near_chance,
    paired_difference,
    sampling_error,
)
from harness.report.stats.leaderboard import ScoreMatrix
from harness.report.stats.predictors import (
    IMAGENET_ACCURACY,
    PARAMETERS,
    PredictorFit,
    gap_to_runner_up,
)
from harness.report.stats.training_kinds import TrainingGroup
from harness.report.text.phrases import (
    MIN_TARGETS,
    averaged_over,
    correlation,
    half_width,
    in_points,
    join_words,
    over_or_on,
    p_value,
    plain,
)
from writers.text_names import counted, percent

MAX_LEFT_OUT = 6  # largest number of names in a sentence; the table has all names


def about_predictors(analysis: Analysis, shortlist: ShortlistSettings | None) -> str:
    """State which cheap score ranks the models most like the recipe's last method does.

    If a shortlist selected the models, the sentence names it.
    """
    if not analysis.predictor_fits:
        return ""
    method = analysis.predictor_fits[-1].method  # the last of the recipe's predicted methods
    fits = [fit for fit in analysis.predictor_fits if fit.method == method]
    best = fits[0]
    is_selected = shortlist is not None and method in shortlist.methods
    selected = f" that {shortlist.by} had selected" if shortlist and is_selected else ""
    has_sample = best.num_targets >= MIN_TARGETS
    half = "" if best.half_width_95 is None else f" {half_width(best.half_width_95, 2)}"
    kendall = (
        f"weighted Kendall rank correlation {plain(best.weighted_kendall)}{half} "
        f"{over_or_on(best.num_targets, 'target')}"
    )
    if has_sample and best.weighted_kendall <= (best.half_width_95 or 0.0):
        return (
            f"No cheap predictor clearly ranks the models{selected} as {method} does. "
            f"The best, {_named(best.predictor)}, has {kendall}."
        )
    text = (
        f"Among {len(fits):,} cheap predictors, {_named(best.predictor)} ranks "
        f"{best.num_models:,} models{selected} most like {method} does ({kendall})."
    )
    if not has_sample:
        return f"{text} With so few targets, this is not a general statement."
    return text + _lead(analysis, best, fits[1:])


def _lead(analysis: Analysis, best: PredictorFit, others: Sequence[PredictorFit]) -> str:
    gap = gap_to_runner_up(analysis.predictor_rows, best, others[0]) if others else None
    if gap is None or math.isnan(gap[0]):
        return ""
    difference, half = gap
    if half is None:
        return f" Its lead over {_named(others[0].predictor)} is not clear."
    amount = f"{difference:.2f} {half_width(half, 2)}"
    if difference > half:
        return f" It is ahead of {_named(others[0].predictor)} by {amount}."
    return f" Its lead over {_named(others[0].predictor)} ({amount}) is not clear."


def _named(predictor: str) -> str:
    """Name a predictor within a sentence: `ImageNet accuracy only ranks` would be misread."""
    return {
        PARAMETERS: "the number of parameters",
        IMAGENET_ACCURACY: "ImageNet accuracy",
    }.get(predictor, predictor)


def about_strengths(analysis: Analysis) -> str:
    """State which model leads by Elo strength, for the method with the most models."""
    ranking = max(reversed(analysis.rankings.values()), key=len, default=[])
    if not ranking:
        return ""
    first, second = ranking[:2]
    p = 1.0 if first.p_next is None else first.p_next
    test = f"sign test over targets, p {p_value(p)}"
    by_elo = (
        f"By Elo strength over {first.num_rounds:,} rounds (target and seed) of {first.method}, "
    )
    if p < 0.05:
        return (
            f"{by_elo}{first.model} leads {len(ranking):,} models. It is ahead of {second.model} "
            f"({test})."
        )
    return (
        f"{by_elo}{first.model} and {second.model} are ahead of {len(ranking) - 2:,} other models. "
        f"Which of the two is stronger is not clear ({test})."
    )


def about_training(groups: Sequence[TrainingGroup]) -> str:
    """State which kinds of training differ from supervised training, for the first method only."""
    parts = []
    for group in groups:
        difference = group.difference
        if group.method != groups[0].method or difference is None:
            continue
        if not difference.excludes_zero:
            parts.append(f"{group.training} models show no clear difference")
        else:
            better = "better" if difference.mean > 0 else "worse"
            parts.append(f"{group.training} models transfer {better}")
    if not parts:
        return ""
    return f"Compared with supervised models by {groups[0].method}, {'; '.join(parts)}."


def about_source_accuracy(associations: Sequence[Association]) -> str:
    """State whether models with a higher source accuracy transfer better, over architectures."""
    if not associations:
        return ""
    first = associations[0]
    numbers = {(row.num_models, row.num_targets) for row in associations}
    sample = f"over {first.num_models:,} architectures and {first.num_targets:,} targets"
    clear = [row for row in associations if row.low_95 > 0 or row.high_95 < 0]
    unclear = [row for row in associations if row not in clear]
    sentences = []
    for rows, verb in ((clear, "correlates"), (unclear, "shows no clear correlation")):
        if rows:
            over = f" {sample}" if len(numbers) == 1 else ""
            each = [_r(row, with_sample=len(numbers) > 1) for row in rows]
            sentences.append(
                f"Mean transfer {verb} with source accuracy{over}: {join_words(each)}."
            )
    text = f"{' '.join(sentences)} Both are logits; in brackets, 95 % intervals over architectures."
    if left_out := list(dict.fromkeys(name for row in associations for name in row.left_out)):
        text += (
            f" {len(left_out):,} more {'is' if len(left_out) == 1 else 'are'} left out, without a "
            f"known source accuracy or with targets missing: {join_words(left_out[:MAX_LEFT_OUT])}"
            f"{', ...' if len(left_out) > MAX_LEFT_OUT else ''}."
        )
    return text


def _r(row: Association, *, with_sample: bool) -> str:
    decimals = 3 if abs(row.r) > 0.95 else 2
    r, low, high = (correlation(value, decimals) for value in (row.r, row.low_95, row.high_95))
    sample = (
        f" ({row.num_models:,} architectures, {row.num_targets:,} targets)" if with_sample else ""
    )
    return f"r = {r} ({low} to {high}) by {row.method}{sample}"


def about_scratch(rows: Sequence[ScratchComparison]) -> str:
    """State how often transfer is clearly better or worse than scratch.

    Only cases in which both tried the same number of configurations are judged.
    """
    matched = [row for row in rows if row.is_matched]
    if not matched:
        return (
            "Transfer and scratch tried different numbers of configurations, so negative transfer "
            "is not judged."
            if rows
            else ""
        )
    judged = [row for row in matched if row.low_95 is not None]
    if not judged:
        num_below = sum(row.difference < 0 for row in matched)
        reason = (
            "These are single runs"
            if all(row.num_seeds < 2 for row in matched)
            else "No case has runs that differ"
        )
        return (
            f"Transfer scored below scratch in {num_below:,} of {len(matched):,} cases. {reason}, "
            "so none of it counts as negative transfer."
        )
    counts = Counter(row.verdict for row in judged)
    worse = list(dict.fromkeys(row.target for row in judged if row.verdict == "negative"))
    on_targets = f" ({join_words(worse)})" if worse else ""
    return (
        f"Compared with scratch at equal tuning, transfer was clearly better in "
        f"{counts['positive']:,} of {len(judged):,} cases and clearly worse in "
        f"{counts['negative']:,}{on_targets}; {counts['not clear']:,} were not clear."
    )


def about_induction(inductions: Sequence[Induction]) -> str:
    """Compare the models with the fewest and the most classes, for each target."""
    has_archs = len({induction.arch for induction in inductions}) > 1
    texts = [(induction.arch, _about_induction(induction)) for induction in inductions]
    return " ".join(f"{arch}: {text}" if has_archs else text for arch, text in texts if text)


def _about_induction(induction: Induction) -> str:
    few, many = (
        choose(induction.rows, key=lambda row: row.num_classes or 0) for choose in (min, max)
    )
    sides: list[Mapping[tuple[int, Condition], float]] = [
        {
            (row.seed, (row.variant, format_eps(row.eps))): row.value
            for row in induction.rows
            if row.subset == subset
        }
        for subset in (few.subset, many.subset)
    ]
    difference = paired_difference(*sides)
    if difference is None:
        return ""
    shared = [
        place for place in sides[0] if place in sides[1] and place[1] in difference.conditions
    ]
    low, high = (statistics.fmean(side[place] for place in shared) for side in sides)
    over = averaged_over(
        {
            "variant": tuple(dict.fromkeys(condition[0] for condition in difference.conditions)),
            "eps": tuple(dict.fromkeys(condition[1] for condition in difference.conditions)),
        }
    )
    return (
        f"On {induction.target}, the nearest neighbor has the same class for {percent(low, 1)} % "
        f"of {few.num_images or 0:,} images, with features trained on {_trained_on(few)}. "
        f"With {_trained_on(many)}, the fraction is {percent(high, 1)} %. The difference is "
        f"{in_points(difference.over_seeds)}{f', averaged over {over}' if over else ''}."
        f"{_limits((low, high), difference, few)}"
    )


def _limits(accuracies: Sequence[float], difference: PairedDifference, row: ScoreRow) -> str:
    """State what limits the conclusion: chance, sampling error, or single runs."""
    num_images = row.num_images or 0
    if all(is_near_chance(value, row.num_answers, num_images) for value in accuracies):
        return f" Neither is clearly above chance ({100 / (row.num_answers or 1):.1f} %)."
    if difference.over_seeds.num_seeds > 1:
        return ""
    error = max(sampling_error(value, num_images) for value in accuracies)
    if abs(difference.over_seeds.mean) <= error:
        return (
            f" That is within the sampling error of single runs on these images "
            f"({half_width(100 * error, 1)} points)."
        )
    return " These are single runs."


def _trained_on(row: ScoreRow) -> str:
    return f"{row.num_classes:,} classes ({row.subset})"


def about_best_model(matrices: Mapping[str, ScoreMatrix]) -> str:
    """Name the two models with the highest means over the targets; "" if no two share a target.

    Only the method with the most models is described; other methods may have other best models.
    """
    complete = [matrix.complete() for matrix in matrices.values()]
    matrix = max(complete, key=lambda matrix: len(matrix.names), default=None)
    if matrix is None or len(matrix.names) < 2 or not matrix.targets:
        return ""
    means = matrix.scores.mean(axis=1)
    first, second = (-means).argsort(kind="stable")[:2].tolist()
    highest = (
        f"mean over {len(matrix.targets):,} targets"
        if len(matrix.targets) > 1
        else f"score on {matrix.targets[0]}"
    )
    best, next_best = matrix.names[first], matrix.names[second]
    value = f"{percent(means[first], 1)} % ({matrix.method})"
    if means[first] == means[second]:
        return f"No model has a higher {highest} than {best} and {next_best}: {value}."
    return (
        f"{best} has the highest {highest}: {value}, {next_best} follows with "
        f"{percent(means[second], 1)} %."
    )


def about_convergence(speedups: Sequence[Speedup]) -> str:
    """State how much faster pretrained networks reach most of the odds of their final scores."""
    return " ".join(_speedup(row) for row in speedups)


def _speedup(row: Speedup) -> str:
    ratio, comparative = (row.ratio, "fewer") if row.ratio >= 1 else (1 / row.ratio, "more")
    text = (
        f"{row.method} reaches {100 * FRACTION:g} % of its final odds in {ratio:.2g} times "
        f"{comparative} steps than {row.baseline} (geometric mean "
        f"{over_or_on(row.num_targets, 'target')})."
    )
    if row.num_bounds:
        text += f" For {counted(row.num_bounds, 'pair')} of curves, only a bound is known."
    return text
