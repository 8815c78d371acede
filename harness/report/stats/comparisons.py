"""Compare settings over many targets: methods, subsets, eps, variants, and transfer with scratch.

Subsets, eps and variants change pretraining, so the pretrained model is the unit: each seed gives
one difference, the mean over targets and over the other axes. Targets that share a model are not
independent repeats. Methods are applied to the same models, so for methods the targets are the
sample: conclusions hold for these models on similar targets. Scratch is training from random
weights.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.report.data.records import (
    ModelId,
    TransferRow,
    at_full_size,
    format_eps,
    under_every_variant,
)
from harness.report.stats.hypothesis_tests import holm, one_sample_t_test, sign_test
from harness.report.stats.intervals import (
    Condition,
    paired_difference,
    t_half_width,
    welch,
)

Floats = NDArray[np.float64]
Key = tuple[object, ...]
Unit = Literal["model", "target"]
_MAX_PAIRED_METHODS = 4  # more methods are compared only with the first one and with scratch


@dataclass(frozen=True)
class Comparison:
    """Setting minus baseline in the targets' own metrics, as a difference of fractions.

    None means that there is too little data.

    Attributes:
        axis: what was changed: method, subset, eps or variant.
        method: transfer method of both sides; "" if methods are compared.
        unit: what is repeated independently: pairs of pretrained models (one per seed) for
            subset, eps and variant; targets for method.
        num_units: number of units that have both sides. One unit has no interval and no p. A seed
            is not counted if it lacks a target, or a value of another axis, that other seeds have.
        difference: mean over the units; the value of a unit is the mean over its runs.
        half_width_95: half the width of the 95 % t interval over units.
        wins: number of (target, model, seed) runs in which the setting is better.
        p: p-value of the paired t-test over units, on logits.
        p_holm: p adjusted for all comparisons of the report.
    """

    axis: str
    setting: str
    baseline: str
    method: str
    num_targets: int
    num_seeds: int
    unit: Unit
    num_units: int
    difference: float
    half_width_95: float | None
    wins: int
    ties: int
    losses: int
    p: float | None
    p_holm: float | None = None

    @property
    def is_clear(self) -> bool:
        """True if the t interval over units excludes zero."""
        return self.half_width_95 is not None and abs(self.difference) > self.half_width_95

    @property
    def num_pairs(self) -> int:
        """Number of compared (target, model, seed) runs."""
        return self.wins + self.ties + self.losses


@dataclass(frozen=True)
class ScratchComparison:
    """One model transferred to one target, against training the same architecture from scratch.

    Attributes:
        low_95: lower bound of Welch's interval over seeds; None if a side has a single run, or if
            the runs of each side are all equal.
        verdict: `negative`, `positive`, `not clear`, or why there is no interval: `one run` or
            `equal runs`.
        num_seeds: number of runs of the side with fewer runs.
        scratch_method: the recipe's name of the scratch method.
    """

    model: str
    target: str
    method: str
    transfer: float
    scratch: float
    difference: float
    low_95: float | None
    high_95: float | None
    num_seeds: int
    num_configs: int
    num_configs_scratch: int
    verdict: str
    scratch_method: str

    @property
    def is_matched(self) -> bool:
        """True if both sides tried the same number of configurations."""
        return self.num_configs == self.num_configs_scratch


def comparisons(rows: Iterable[TransferRow]) -> list[Comparison]:
    """Compare methods with each other, and subsets, eps and variants with a baseline.

    The baseline is the largest subset, the smallest eps, and the variant "" or else the first one.
    With more than _MAX_PAIRED_METHODS methods, only pairs with the first one or with scratch are
    compared. Of runs with several training sizes, only the largest are used (`at_full_size`).
    p-values are adjusted for all comparisons together.
    """
    rows = at_full_size(rows)
    compared = [*_method_comparisons(rows)]
    for method in dict.fromkeys(row.method for row in rows if not row.is_scratch):
        of_method = [row for row in rows if row.method == method]
        sizes = {
            row.subset: (row.num_classes or 0, row.num_source_images or 0) for row in of_method
        }
        largest = max(sizes, key=lambda name: sizes[name], default="")
        smallest_eps = min(row.eps for row in of_method)
        base = min((row.variant for row in of_method), key=lambda name: name != "")
        every_variant = under_every_variant(of_method)
        compared += _axis_comparisons(
            every_variant, "subset", method, lambda row: row.subset, largest
        )
        compared += _axis_comparisons(
            of_method, "eps", method, lambda row: format_eps(row.eps), format_eps(smallest_eps)
        )
        compared += _axis_comparisons(of_method, "variant", method, lambda row: row.variant, base)
    adjusted = holm([math.nan if row.p is None else row.p for row in compared])
    return [
        replace(row, p_holm=None if row.p is None else p)
        for row, p in zip(compared, adjusted, strict=True)
    ]


def _method_comparisons(rows: Sequence[TransferRow]) -> Iterable[Comparison]:
    methods = list(dict.fromkeys(row.method for row in rows))
    scratch = {row.method for row in rows if row.is_scratch}
    by_method = {method: [row for row in rows if row.method == method] for method in methods}
    for index, baseline in enumerate(methods):
        for setting in methods[index + 1 :]:
            with_scratch = bool({baseline, setting} & scratch)
            if len(methods) > _MAX_PAIRED_METHODS and index and not with_scratch:
                continue
            first, second = (baseline, setting) if setting in scratch else (setting, baseline)
            # Scratch has no subset and no eps, so its runs pair with every model of the same arch.
            comparison = _comparison(
                "method",
                first,
                second,
                "",
                by_method[first],
                by_method[second],
                _architecture if with_scratch else lambda row: (*row.model_id, row.per_class),
            )
            if comparison is not None:
                yield comparison


def _architecture(row: TransferRow) -> Key:
    return row.model, row.arch, row.per_class


def _axis_comparisons(
    rows: Sequence[TransferRow],
    axis: str,
    method: str,
    value_of: Callable[[TransferRow], str],
    baseline: str,
) -> Iterable[Comparison]:
    """Compare each value of an axis of the models with the value `baseline`, all else equal."""
    index = ModelId._fields.index(axis)
    by_value: dict[str, list[TransferRow]] = {}
    for row in rows:
        by_value.setdefault(value_of(row), []).append(row)
    for value, group in by_value.items():
        if value != baseline:
            comparison = _comparison(
                axis,
                value,
                baseline,
                method,
                group,
                by_value.get(baseline, []),
                lambda row: row.model_id[:index] + row.model_id[index + 1 :],
            )
            if comparison is not None:
                yield comparison


def _comparison(
    axis: str,
    setting: str,
    baseline: str,
    method: str,
    rows: Sequence[TransferRow],
    other_rows: Sequence[TransferRow],
    other_axes: Callable[[TransferRow], Key],
) -> Comparison | None:
    sides = _group(rows, other_axes), _group(other_rows, other_axes)
    shared = [place for place in sides[0] if place in sides[1]]
    if not shared:
        return None
    scores, logits = (
        np.array([[_mean(side[place], measure) for side in sides] for place in shared])
        for measure in (_score, _logit)
    )
    signs = sign_test(scores[:, 0], scores[:, 1])
    by_unit = differences_by_target if axis == "method" else differences_by_model
    differences, logit_differences = by_unit(shared, scores), by_unit(shared, logits)
    half_width = t_half_width(differences)
    p = math.nan if half_width is None else one_sample_t_test(logit_differences)
    return Comparison(
        axis,
        setting,
        baseline,
        method,
        len({place[1] for place in shared}),
        len({place[0] for place in shared}),
        "target" if axis == "method" else "model",
        len(differences),
        float(differences.mean()),
        half_width,
        signs.wins,
        signs.ties,
        signs.losses,
        None if math.isnan(p) else p,
    )


def differences_by_target(places: Sequence[Key], sides: Floats) -> Floats:
    """Average the differences of each target: float64 [T].

    Args:
        places: (seed, target, other axes...) of P runs.
        sides: float64 [P, 2], values of the setting and of the baseline.
    """
    by_target: dict[object, list[float]] = {}
    for place, (value, other) in zip(places, sides.tolist(), strict=True):
        by_target.setdefault(place[1], []).append(value - other)
    return np.array([np.mean(values) for values in by_target.values()])


def differences_by_model(places: Sequence[Key], sides: Floats) -> Floats:
    """Average the differences of each seed: float64 [S], without the seeds that lack some runs.

    Models of one seed that differ in another axis share the seed's random numbers, so they are one
    unit.

    Args:
        places: (seed, target, other axes...) of P runs.
        sides: float64 [P, 2], values of the setting and of the baseline.
    """
    keyed: list[dict[tuple[int, Condition], float]] = [
        {
            (int(str(place[0])), tuple(map(str, place[1:]))): value
            for place, value in zip(places, side, strict=True)
        }
        for side in sides.T.tolist()
    ]
    difference = paired_difference(*keyed)
    assert difference is not None, "both sides have the same runs"
    return np.array(difference.by_seed)


def _group(
    rows: Iterable[TransferRow], other_axes: Callable[[TransferRow], Key]
) -> dict[Key, list[TransferRow]]:
    """Group rows by (seed, target, *other_axes)."""
    groups: dict[Key, list[TransferRow]] = {}
    for row in rows:
        groups.setdefault((row.seed, row.target, *other_axes(row)), []).append(row)
    return groups


def _score(row: TransferRow) -> float:
    return row.score


def _logit(row: TransferRow) -> float:
    return row.logit


def _mean(rows: Sequence[TransferRow], measure: Callable[[TransferRow], float]) -> float:
    return sum(map(measure, rows)) / len(rows)


def against_scratch(
    rows: Iterable[TransferRow], names: Mapping[ModelId, str]
) -> list[ScratchComparison]:
    """Compare each transfer with scratch on the same arch.

    Of runs with several training sizes, only the largest are used (`at_full_size`).

    A recipe may have several scratch methods, e.g. with different lengths. Each is a separate
    baseline, because only runs of the same method differ in nothing but the seed.
    """
    rows = at_full_size(rows)
    scratch: dict[Key, dict[str, list[TransferRow]]] = {}
    for row in rows:
        if row.is_scratch:
            by_method = scratch.setdefault((row.target, *_architecture(row)), {})
            by_method.setdefault(row.method, []).append(row)
    transfers: dict[tuple[ModelId, str, str], list[TransferRow]] = {}
    for row in rows:
        if not row.is_scratch:
            transfers.setdefault((row.model_id, row.target, row.method), []).append(row)
    return [
        _scratch_comparison(names[model], group, baselines)
        for (model, target, _), group in transfers.items()
        for baselines in scratch.get((target, *_architecture(group[0])), {}).values()
    ]


def _scratch_comparison(
    model: str, transfers: Sequence[TransferRow], baselines: Sequence[TransferRow]
) -> ScratchComparison:
    scores, others = (np.array([row.score for row in side]) for side in (transfers, baselines))
    interval = welch(scores, others)
    if interval is None:
        verdict = "one run" if min(map(len, (scores, others))) < 2 else "equal runs"
    elif interval.excludes_zero:
        verdict = "negative" if interval.high < 0 else "positive"
    else:
        verdict = "not clear"
    return ScratchComparison(
        model,
        transfers[0].target,
        transfers[0].method,
        float(scores.mean()),
        float(others.mean()),
        float(scores.mean() - others.mean()),
        interval.low if interval else None,
        interval.high if interval else None,
        min(len(scores), len(others)),
        transfers[0].num_configs,
        baselines[0].num_configs,
        verdict,
        baselines[0].method,
    )
