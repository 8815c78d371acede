"""Write sentences on recipes with one model, one transfer per target, or scores alone."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from harness.report.data.records import KNN, AccuracyRow, ScoreRow, TransferRow, format_eps
from harness.report.stats.intervals import is_near_chance
from harness.report.stats.leaderboard import model_names
from harness.report.text.phrases import join_words, plain
from writers.text_names import percent

MAX_TARGETS = 4  # largest number of targets in a sentence; the table has all
MAX_SCORES = 3  # largest number of scores per target in a sentence; the table has all
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


def about_scores(scores: Sequence[ScoreRow]) -> str:
    """State the scores of a single model, or the best of several models by the first score.

    Scores are means over seeds. Versions of a score, such as knn_k5, are left out. Returns "" if
    there are no scores.
    """
    versions = {row.name for row in scores}
    rows = [
        row
        for row in scores
        if math.isfinite(row.value)
        and not any(row.name.startswith(f"{name}_") for name in versions)
    ]
    if not rows:
        return ""
    names = model_names(rows)
    of_seeds: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        place = (row.target, row.name, names[row.model_id])
        of_seeds.setdefault(place, []).append(row.value)
    values: dict[str, dict[str, dict[str, float]]] = {}  # target -> score -> model -> mean
    for (target, score, model), of_place in of_seeds.items():
        values.setdefault(target, {}).setdefault(score, {})[model] = fmean(of_place)
    if len(names) == 1:
        return _scores_of_one(values)
    score = rows[0].name
    ranked = {
        target: of_target[score] for target, of_target in values.items() if score in of_target
    }
    winners = Counter(
        max(of_score, key=lambda name: of_score[name]) for of_score in ranked.values()
    )
    best, times = winners.most_common(1)[0]
    if len(ranked) > 1:
        return (
            f"By {score}, {best} is the best of {len(names):,} models on {times:,} of "
            f"{len(ranked):,} targets."
        )
    (target,) = ranked
    value = _score_value(score, ranked[target][best])
    return f"By {score}, {best} is the best of {len(names):,} models on {target}: {value}."


def _scores_of_one(values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Write a sentence such as `net has these scores: knn 75.7 % and logme −0.129 on pets.`."""
    model = ""
    parts = []
    for target, of_target in list(values.items())[:MAX_TARGETS]:
        shown = []
        for score, of_score in list(of_target.items())[:MAX_SCORES]:
            ((model, value),) = of_score.items()
            shown.append(f"{score} {_score_value(score, value)}")
        parts.append(f"{join_words(shown)} on {target}")
    return f"{model} has these scores: {'; '.join(parts)}."


def _score_value(name: str, value: float) -> str:
    return f"{percent(value, 1)} %" if name == KNN else plain(value, 3)


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
