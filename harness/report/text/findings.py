"""Sentences about many models and many targets: what predicts transfer, which method, which model, and whether it helps at all.

Here the targets are the sample: `±` is half a 95 % t interval over them, and "not clear" says that it holds zero.
"""

import math
from collections import Counter
from collections.abc import Sequence

from harness.config.recipe import ShortlistSettings
from harness.report.data.rows import TransferRow
from harness.report.stats.analysis import Analysis
from harness.report.stats.comparisons import SCRATCH, AgainstScratch, Comparison
from harness.report.stats.leaderboard import Association, Standing
from harness.report.stats.predictors import Power, lead

FEWEST_TARGETS = 3  # below that, an interval over targets is no sample of targets


def about_predictors(found: Analysis, shortlist: ShortlistSettings | None) -> str:
    """Which cheap score orders the models as the most expensive method does, on the range that a shortlist has left."""
    if not found.powers:
        return ""
    method = found.powers[-1].method  # the last of the recipe's methods that could be predicted
    mine = [power for power in found.powers if power.method == method]
    best = mine[0]
    among = (
        f", among the {shortlist.best} that {shortlist.by} had chosen"
        if shortlist and method in shortlist.methods
        else ""
    )
    reached = (
        f"weighted Kendall {_plain(best.weighted_kendall)}{_half(best.half_width_95)}, "
        f"{_over(best.num_targets, 'target')}"
    )
    if best.half_width_95 is None or best.num_targets < FEWEST_TARGETS:
        return (
            f"Of {len(mine)} cheap predictors, {best.predictor} ordered {best.num_models} models most like {method} did "
            f"({reached}){among}; with so few targets that is no general statement."
        )
    if best.weighted_kendall <= best.half_width_95:
        return (
            f"No cheap predictor clearly orders the models as {method} does: the best, {best.predictor}, has {reached}"
            f"{among}."
        )
    said = (
        f"Of {len(mine)} cheap predictors, {best.predictor} ordered {best.num_models} models most like {method} did "
        f"({reached}){among}"
    )
    return f"{said}{_lead(found, best, mine[1:])}."


def _lead(found: Analysis, best: Power, others: Sequence[Power]) -> str:
    ahead = lead(found.predictor_rows, best, others[0]) if others else None
    if ahead is None or math.isnan(ahead[1]):
        return ""
    difference, half = ahead
    if difference > half:
        return f", ahead of {others[0].predictor} by {difference:.2f} ± {half:.2f}"
    return f"; its lead over {others[0].predictor} ({difference:.2f} ± {half:.2f}) is not clear"


def about_strengths(found: Analysis) -> str:
    """Who leads by Elo, by the method with the most models."""
    standings = _most(found)
    if not standings:
        return ""
    first, second = standings[:2]
    p = 1.0 if first.p_next is None else first.p_next
    test = f"sign test over targets, p {_p(p)}"
    said = f"By Elo over {first.num_rounds} rounds of {first.method}, "
    if p < 0.05:
        return (
            f"{said}{first.model} leads {len(standings)} models, ahead of {second.model} ({test})."
        )
    return (
        f"{said}{first.model} and {second.model} are ahead of {len(standings) - 2} other models; which of the two is "
        f"stronger is not clear ({test})."
    )


def _most(found: Analysis) -> list[Standing]:
    return max(reversed(found.standings.values()), key=len, default=[])


def about_source_accuracy(associations: Sequence[Association]) -> str:
    """Whether better source models transfer better."""
    if not associations:
        return ""
    clear = [one for one in associations if one.low_95 > 0 or one.high_95 < 0]
    rest = [one for one in associations if one not in clear]
    most = associations[0]
    setting = f"Over {most.num_models} models and {most.num_targets} targets, "
    parts = []
    if clear:
        parts.append(
            f"mean transfer went with source accuracy at {_listed([_r(one) for one in clear])}"
        )
    if rest:
        parts.append(f"no clear relation shows for {_listed([_r(one) for one in rest])}")
    return f"{setting}{'; '.join(parts)} (logits, 95 % intervals over models)."


def _r(one: Association) -> str:
    digits = 3 if abs(one.r) > 0.95 else 2
    r, low, high = (
        f"{value:.{digits}f}".replace("-", "−") for value in (one.r, one.low_95, one.high_95)
    )
    return f"r = {r} ({low} to {high}) by {one.method}"


def about_methods(comparisons: Sequence[Comparison], transfer: Sequence[TransferRow]) -> str:
    """Each method against the first one of the recipe; and, of grids with more axes than the rate, what val chose."""
    scratch = {row.method for row in transfer if row.kind == SCRATCH}
    mine = [
        one
        for one in comparisons
        if one.axis == "method" and not {one.setting, one.baseline} & scratch
    ]
    mine = [one for one in mine if one.baseline == mine[0].baseline]
    if not mine:
        return ""
    said = [
        f"{one.setting} against {one.baseline}: better in {one.wins:,} of {one.num_pairs:,} runs (target, model, seed), "
        f"mean difference {_size(one)}"
        for one in mine
    ]
    return f"Of methods, {'; '.join(said)}.{_chosen(transfer)}"


def _size(one: Comparison) -> str:
    text = f"{100 * one.difference:+.1f}".replace("-", "−")
    if one.num_targets < FEWEST_TARGETS or one.half_width_95 is None:
        return f"{text} points {_over(one.num_targets, 'target')}"
    remark = "" if one.is_clear else " (not clear)"
    return f"{text} ± {100 * one.half_width_95:.1f} points over {one.num_targets} targets{remark}"


def _chosen(transfer: Sequence[TransferRow]) -> str:
    """The values that val chose most often, of the last method whose grid has several axes."""
    searched = [row for row in transfer if set(row.chosen) - {"lr", "eval_crop"}]
    if not searched:
        return ""
    mine = [row for row in searched if row.method == searched[-1].method]
    parts = []
    for axis in mine[0].chosen:
        counts = Counter(row.chosen.get(axis) for row in mine)
        value, number = counts.most_common(1)[0]
        shown = f"{value:.3g}" if isinstance(value, float) else value
        parts.append(f"{axis} {shown} ({number} of {len(mine)} runs)")
    return f" For {mine[0].method}, val most often chose {_listed(parts)}."


def about_scratch(rows: Sequence[AgainstScratch]) -> str:
    """Where transfer is clearly worse than random weights, among those tuned alike."""
    matched = [row for row in rows if row.is_matched]
    if not matched:
        return (
            "Transfer and scratch were tuned with unequal numbers of configurations: negative transfer is not judged."
            if rows
            else ""
        )
    judged = [row for row in matched if row.low_95 is not None]
    if not judged:
        behind = sum(row.difference < 0 for row in matched)
        return (
            f"Transfer scored below scratch {behind} of {len(matched)} times; these are single runs, so none of it counts "
            "as negative transfer."
        )
    counts = Counter(row.verdict for row in judged)
    worse = list(dict.fromkeys(row.target for row in judged if row.verdict == "negative"))
    where = f" ({_listed(worse)})" if worse else ""
    return (
        f"Against scratch, tuned alike, transfer was clearly better in {counts['positive']} of {len(judged)} transfers, "
        f"clearly worse in {counts['negative']}{where}, and not clear in {counts['not clear']}."
    )


def _half(half: float | None) -> str:
    return "" if half is None or math.isnan(half) else f" ± {half:.2f}"


def _over(number: int, what: str) -> str:
    return f"over {number} {what}s" if number > 1 else f"on one {what}"


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def _listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
