"""Test which cheap measure of a target finds the best setting (point of a method's grid).

Plested, Shen and Gedeon 2021 search for the best setting of each target. If targets with similar
values of a cheap measure have similar best settings, the measure can replace the search. To test
this, each target is left out in turn, and gets the best setting of the target whose value is
nearest.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.report.data.records import GridRow, ScoreRow, TransferRow, at_full_size

MIN_TARGETS = 3  # with two targets, the nearest one is always the other one
ONE_FOR_ALL = "one setting for all"

Setting = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class FitMeasure:
    """How well one measure selects the settings of one method.

    Attributes:
        measure: a score; the accuracy of a method that trains the head only; the lead of such a
            method over scratch; or ONE_FOR_ALL, which selects the setting with the best mean over
            the other targets.
        times_found: number of targets whose selected setting is their best one.
        mean_loss: score on val of the best setting minus the score of the selected setting, as a
            fraction, mean over targets.
    """

    method: str
    measure: str
    num_targets: int
    times_found: int
    mean_loss: float


def fit_measures(
    grids: Iterable[tuple[str, str, Sequence[GridRow]]],
    transfer: Sequence[TransferRow],
    scores: Iterable[ScoreRow],
) -> list[FitMeasure]:
    """Compare the measures for each method whose grid was searched on at least MIN_TARGETS targets.

    Settings that were not tried on all of these targets are left out, and so are measures that are
    unknown for one of them.

    Args:
        grids: target, method and rows of each grid.
        transfer: test scores, for the accuracy of other methods.
        scores: transferability scores.

    Returns:
        For each method, the measure with the smallest loss first.
    """
    by_method: dict[str, dict[str, dict[Setting, float]]] = defaultdict(dict)
    for target, method, rows in grids:
        by_method[method][target] = _mean_scores(rows)
    known = _measures(transfer, scores)
    found = []
    for method, of_targets in by_method.items():
        common = set.intersection(*(set(tried) for tried in of_targets.values()))
        if len(of_targets) < MIN_TARGETS or len(common) < 2:
            continue
        order = sorted(common, key=str)  # if scores are equal, the first setting is selected
        values = {
            target: {setting: tried[setting] for setting in order}
            for target, tried in of_targets.items()
        }
        results = [_result(method, ONE_FOR_ALL, values, _one_for_all(values))]
        results += [
            _result(method, name, values, _of_nearest(values, of_target))
            for name, of_target in known.items()
            if values.keys() <= of_target.keys()
        ]
        found += sorted(results, key=lambda result: result.mean_loss)
    return found


def _mean_scores(rows: Iterable[GridRow]) -> dict[Setting, float]:
    """Return setting -> score on val, mean over models and seeds; a diverged run counts as 0."""
    values: dict[Setting, list[float]] = defaultdict(list)
    for row in rows:
        values[tuple(sorted(row.setting.items()))].append(row.val_score or 0.0)
    return {setting: fmean(scores) for setting, scores in values.items()}


def _measures(
    transfer: Sequence[TransferRow], scores: Iterable[ScoreRow]
) -> dict[str, dict[str, float]]:
    """Return measure -> target -> value, mean over models and seeds."""
    full = at_full_size(transfer)
    head_only = _means((run.method, run.target, run.score) for run in full if run.is_head_only)
    scratch = _means(("", run.target, run.score) for run in full if run.is_scratch).get("", {})
    by_accuracy = {f"{method} accuracy": of_target for method, of_target in head_only.items()}
    by_lead = {
        f"lead of {method} over scratch": {
            target: value - scratch[target]
            for target, value in of_target.items()
            if target in scratch
        }
        for method, of_target in head_only.items()
    }
    return _means((row.name, row.target, row.value) for row in scores) | by_accuracy | by_lead


def _means(values: Iterable[tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    """Return name -> target -> mean of the values with this name and target."""
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, target, value in values:
        groups[name][target].append(value)
    return {
        name: {target: fmean(numbers) for target, numbers in of_target.items()}
        for name, of_target in groups.items()
    }


def _best(values: Mapping[Setting, float]) -> Setting:
    return max(values, key=lambda setting: values[setting])


def _one_for_all(values: Mapping[str, Mapping[Setting, float]]) -> dict[str, Setting]:
    """Return target -> the setting with the best mean over the other targets."""
    return {
        target: _best(
            {
                setting: fmean(other[setting] for name, other in values.items() if name != target)
                for setting in own
            }
        )
        for target, own in values.items()
    }


def _of_nearest(
    values: Mapping[str, Mapping[Setting, float]], measure: Mapping[str, float]
) -> dict[str, Setting]:
    """Return target -> the best setting of the other target with the nearest value of a measure."""
    return {
        target: _best(
            values[
                min(
                    (other for other in values if other != target),
                    key=lambda other: abs(measure[other] - measure[target]),
                )
            ]
        )
        for target in values
    }


def _result(
    method: str,
    measure: str,
    values: Mapping[str, Mapping[Setting, float]],
    selected: Mapping[str, Setting],
) -> FitMeasure:
    losses = [max(own.values()) - own[selected[target]] for target, own in values.items()]
    return FitMeasure(method, measure, len(values), losses.count(0.0), fmean(losses))
