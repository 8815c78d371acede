"""Write sentences that compare transfer methods."""

from collections import Counter
from collections.abc import Sequence

from harness.report.data.records import TransferRow
from harness.report.stats.architectures import ALL_TARGETS, SignRow
from harness.report.stats.comparisons import Comparison
from harness.report.stats.intervals import is_near_chance
from harness.report.text.phrases import MIN_TARGETS, half_width, join_words, over_or_on, signed


def about_methods(
    comparisons: Sequence[Comparison],
    transfer: Sequence[TransferRow],
    signs: Sequence[SignRow] = (),
) -> str:
    """Compare each method with the recipe's first one, and state what searches selected.

    Args:
        comparisons: comparisons of settings.
        transfer: all transfers.
        signs: wins, counted by architecture. For methods without these, wins are counted by runs.
    """
    scratch = {row.method for row in transfer if row.is_scratch}
    of_methods = [
        row
        for row in comparisons
        if row.axis == "method" and not {row.setting, row.baseline} & scratch
    ]
    totals = {(row.method, row.baseline): row for row in signs if row.target == ALL_TARGETS}
    sentences = [
        _about_method(row, totals.get((row.setting, row.baseline)), transfer)
        for row in of_methods
        if row.baseline == of_methods[0].baseline
    ]
    return " ".join([*sentences, *_selected(transfer)]) if sentences else ""


def _about_method(row: Comparison, sign: SignRow | None, transfer: Sequence[TransferRow]) -> str:
    """Compare a method with its baseline; a single pair of runs has no mean."""
    compared = [run for run in transfer if run.method in (row.setting, row.baseline)]
    remark = " (not clearly above chance)" if all(map(_is_near_chance, compared)) else ""
    if row.num_pairs == 1 and row.difference:
        amount = signed(100 * abs(row.difference), 1).removeprefix("+")
        change = "better" if row.difference > 0 else "worse"
        return (
            f"Method {row.setting} was {amount} points {change} than {row.baseline}, in one run "
            f"of each{remark}."
        )
    return (
        f"Method {row.setting} was better than {row.baseline} in {_wins(row, sign)}; the mean "
        f"difference is {_size(row)}{remark}."
    )


def _is_near_chance(run: TransferRow) -> bool:
    return run.top1 is not None and is_near_chance(run.top1, run.num_answers, run.num_images)


def _wins(row: Comparison, sign: SignRow | None) -> str:
    if sign is not None:
        return f"{sign.wins:,} of {sign.num_pairs:,} pairs of architecture and target"
    ties = f" and equal in {row.ties:,}" if row.ties else ""
    return f"{row.wins:,} of {row.num_pairs:,} runs (target, model, seed){ties}"


def _size(row: Comparison) -> str:
    text = signed(100 * row.difference, 1)
    if row.num_targets < MIN_TARGETS or row.half_width_95 is None:
        return f"{text} points {over_or_on(row.num_targets, 'target')}"
    remark = "" if row.is_clear else " (not clear)"
    half = half_width(100 * row.half_width_95, 1)
    return f"{text} {half} points over {row.num_targets:,} targets{remark}"


def _selected(transfer: Sequence[TransferRow]) -> list[str]:
    """State the values that were selected most often by the last method with several grid axes."""
    searched = [row for row in transfer if set(row.chosen) - {"lr", "eval_crop"}]
    if not searched:
        return []
    rows = [row for row in searched if row.method == searched[-1].method]
    parts = []
    for axis in rows[0].chosen:
        value, number = Counter(row.chosen.get(axis) for row in rows).most_common(1)[0]
        shown = f"{value:.3g}" if isinstance(value, float) else value
        how_often = f" ({number:,} of {len(rows):,} runs)" if len(rows) > 1 else ""
        parts.append(f"{axis} {shown}{how_often}")
    often = " most often" if len(rows) > 1 else ""
    return [f"For {rows[0].method}, val{often} selected {join_words(parts)}."]
