"""Write sentences on recipes with a single model, or a single transfer on each target."""

from collections.abc import Sequence
from statistics import fmean

from harness.report.data.records import AccuracyRow, TransferRow, format_eps
from harness.report.stats.intervals import is_near_chance
from harness.report.text.phrases import join_words
from writers.text_names import percent

MAX_TARGETS = 4  # largest number of targets in a sentence; the table has all
METRICS = {
    "top1": "a {}top-1 accuracy",
    "mean_per_class": "a {}mean accuracy per class",
    "map11": "an {}11-point mAP",
    "map50_11": "an {}11-point mAP of boxes",
}


def about_only_model(accuracy: Sequence[AccuracyRow]) -> str:
    """State the accuracy of the recipe's model on its own classes; "" unless it has one model.

    Models that differ only in the seed count as one; the mean is stated.
    """
    clean = [row for row in accuracy if row.view == "own" and row.attack == "clean"]
    if (
        not clean
        or len({(row.model, row.arch, row.subset, row.variant, row.eps) for row in clean}) > 1
    ):
        return ""
    row = clean[0]
    value = fmean(row.top1 for row in clean)
    classes = "all classes" if row.subset == "all" else row.subset
    return (
        f"{row.arch}, trained on {classes}, has {_score('top1', value, len(clean))} on "
        f"{row.num_images:,} validation images of its classes"
        f"{_limit(value, row.num_answers, row.num_images)}{_under_attack(accuracy)}."
    )


def _under_attack(accuracy: Sequence[AccuracyRow]) -> str:
    """State the accuracy on the model's own classes under attack; "" if it was not attacked."""
    rows = [row for row in accuracy if row.view == "own" and row.attack == "adversarial"]
    radii = {row.attack_eps for row in rows}
    if not rows or len(radii) > 1 or None in radii:
        return ""
    value = percent(fmean(row.top1 for row in rows), 1)
    return f"; under attack at eps {format_eps(rows[0].attack_eps or 0.0)} it has {value} %"


def about_only_transfer(transfer: Sequence[TransferRow]) -> str:
    """State the score of one model and one method on each target; "" if there are several.

    Transfers that differ only in the seed count as one; the mean is stated.
    """
    if len({(row.model_id, row.method, row.size) for row in transfer}) != 1:
        return ""
    targets: dict[str, list[TransferRow]] = {}
    for row in transfer:
        targets.setdefault(row.target, []).append(row)
    first = transfer[0]
    model, verb = first.model or first.arch, "trained" if first.is_scratch else "transferred"
    if len(targets) == 1:
        place = f"{'on' if first.is_scratch else 'to'} {first.target}"
        return f"{model}, {verb} {place} by {first.method}, has {_result(transfer)}."
    shown = [_result(rows, target) for target, rows in targets.items()][:MAX_TARGETS]
    more = len(targets) - len(shown)
    texts = [*shown, *([f"results on {more:,} more targets"] if more else [])]
    return f"{model}, {verb} by {first.method}, has {join_words(texts)}."


def why_none(*, any_measured: bool, is_complete: bool) -> str:
    """Explain why there is no answer, or none yet."""
    if any_measured and is_complete:
        return "The recipe has no two comparable settings. The tables show its results."
    if any_measured:
        return "No two comparable settings have both finished. The tables show the results so far."
    return "No model of this recipe has been evaluated or transferred yet, so there is no answer."


def _result(rows: Sequence[TransferRow], target: str = "") -> str:
    """Describe the mean score, such as `a top-1 accuracy of 90.0 % on 8 test images of pets`."""
    row, mean = rows[0], fmean(row.score for row in rows)
    limit = "" if row.metric != "top1" else _limit(mean, row.num_answers, row.num_images)
    of_target = f" of {target}" if target else ""
    images = f"{row.num_images:,} test images{of_target}"
    return f"{_score(row.metric, mean, len(rows))} on {images}{limit}"


def _score(metric: str, value: float, num_seeds: int) -> str:
    mean, over = ("mean ", f" over {num_seeds} seeds") if num_seeds > 1 else ("", "")
    return f"{METRICS[metric].format(mean)} of {percent(value, 1)} %{over}"


def _limit(top1: float, num_answers: int | None, num_images: int) -> str:
    is_weak = is_near_chance(top1, num_answers, num_images)
    return ", which is not clearly above chance" if is_weak else ""
