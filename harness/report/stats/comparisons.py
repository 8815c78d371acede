"""Settings against each other over many targets: methods, subsets, eps, variants of pretraining, and transfer against scratch.

`effects` asks how sure a difference is for these targets and other seeds; here the targets are the sample, so that what is
said carries over to targets like these.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats as scipy_stats

from harness.report.data.rows import (
    Source,
    TransferRow,
    at_full_size,
    shown_eps,
    under_every_variant,
)
from harness.report.stats import hypothesis_tests as stats

SCRATCH = "scratch"
FEWEST_RESAMPLED = 5  # targets: resampling two or three gives little more than their own means back
_MOST_METHODS = 4  # beyond that, methods are compared with the first one only
Pairs = dict[tuple[object, ...], list[TransferRow]]


@dataclass(frozen=True)
class Comparison:
    """Setting minus baseline in the targets' own metrics, as a difference of fractions. None: too little to tell."""

    axis: str  # method, subset, eps or variant: what was changed
    setting: str
    baseline: str
    method: str  # by which the models were transferred; empty where methods are compared
    num_targets: int
    num_seeds: int
    difference: float  # mean over the targets, each the mean over its seeds and models
    half_width_95: float | None  # of the t interval over targets
    bootstrap_low: (
        float | None
    )  # of the 95 % interval of resampled seeds and targets, from FEWEST_RESAMPLED targets on
    bootstrap_high: float | None
    wins: int  # of the setting, over (target, model, seed)
    ties: int
    losses: int
    p: float | None  # paired t-test over targets, on logits
    p_holm: float | None = None  # the same, for all comparisons of the report together

    @property
    def is_clear(self) -> bool:
        """Whether the t interval over targets leaves out zero."""
        return self.half_width_95 is not None and abs(self.difference) > self.half_width_95

    @property
    def num_pairs(self) -> int:
        return self.wins + self.ties + self.losses


@dataclass(frozen=True)
class AgainstScratch:
    """One model carried to one target, against the same architecture trained there from random weights."""

    model: str
    target: str
    method: str
    transfer: float
    scratch: float
    difference: float
    low_95: float | None  # Welch's interval over seeds; None: one run on a side
    high_95: float | None
    num_seeds: int
    num_configs: int
    num_configs_scratch: int
    verdict: str  # negative, positive, not clear, or one run

    @property
    def is_matched(self) -> bool:
        """Whether both were tuned with as many configurations."""
        return self.num_configs == self.num_configs_scratch


def comparisons(rows: Iterable[TransferRow]) -> list[Comparison]:
    """Every pair of settings that share targets, at the full size of the target; p-values adjusted over all of them."""
    rows = at_full_size(rows)
    found = [*_of_methods(rows)]
    for method in dict.fromkeys(row.method for row in rows if row.kind != SCRATCH):
        mine = [row for row in rows if row.method == method]
        sizes = {row.subset: (row.num_classes or 0, row.num_source_images or 0) for row in mine}
        largest = max(sizes, key=lambda name: sizes[name], default="")
        found += _against(
            under_every_variant(mine), "subset", method, lambda row: row.subset, largest
        )
        eps = sorted({row.eps for row in mine})
        found += _against(mine, "eps", method, lambda row: shown_eps(row.eps), shown_eps(eps[0]))
        variants = [row.variant for row in mine]
        found += _against(
            mine,
            "variant",
            method,
            lambda row: row.variant,
            min(variants, key=lambda name: name != ""),
        )
    adjusted = stats.holm([math.nan if one.p is None else one.p for one in found])
    return [
        replace(one, p_holm=None if one.p is None else p)
        for one, p in zip(found, adjusted, strict=True)
    ]


def _of_methods(rows: Sequence[TransferRow]) -> Iterable[Comparison]:
    methods = list(dict.fromkeys(row.method for row in rows))
    scratch = {row.method for row in rows if row.kind == SCRATCH}
    by_method = {method: [row for row in rows if row.method == method] for method in methods}
    for place, baseline in enumerate(methods):
        for setting in methods[place + 1 :]:
            if len(methods) > _MOST_METHODS and place and not {baseline, setting} & scratch:
                continue
            # From scratch there is no subset and no eps: its runs stand for every source of the same architecture.
            with_scratch = bool({baseline, setting} & scratch)
            first, second = (baseline, setting) if setting in scratch else (setting, baseline)
            one = _comparison(
                "method",
                first,
                second,
                "",
                by_method[first],
                by_method[second],
                _architecture if with_scratch else lambda row: (*row.source, row.per_class),
            )
            if one is not None:
                yield one


def _architecture(row: TransferRow) -> tuple[object, ...]:
    return row.model, row.arch, row.per_class


def _against(
    rows: Sequence[TransferRow],
    axis: str,
    method: str,
    value_of: Callable[[TransferRow], str],
    baseline: str,
) -> Iterable[Comparison]:
    """Every other value of an axis of the models against `baseline`, all else equal."""
    place = {"subset": 2, "variant": 3, "eps": 4}[axis]
    by_value: dict[str, list[TransferRow]] = {}
    for row in rows:
        by_value.setdefault(value_of(row), []).append(row)
    for value, mine in by_value.items():
        if value != baseline:
            one = _comparison(
                axis,
                value,
                baseline,
                method,
                mine,
                by_value.get(baseline, []),
                lambda row: row.source[:place] + row.source[place + 1 :],
            )
            if one is not None:
                yield one


def _comparison(
    axis: str,
    setting: str,
    baseline: str,
    method: str,
    rows: Sequence[TransferRow],
    other_rows: Sequence[TransferRow],
    rest: Callable[[TransferRow], tuple[object, ...]],
) -> Comparison | None:
    sides = _paired(rows, rest), _paired(other_rows, rest)
    shared = [place for place in sides[0] if place in sides[1]]
    if not shared:
        return None
    scores, logits = (
        np.array([[_mean(side[place], measure) for side in sides] for place in shared])
        for measure in (_score, _logit)
    )
    seeds, targets = (list(dict.fromkeys(place[index] for place in shared)) for index in (0, 1))
    of_target = np.array([targets.index(place[1]) for place in shared])
    of_seed = np.array([seeds.index(place[0]) for place in shared])
    differences = scores[:, 0] - scores[:, 1]
    signs = stats.sign_table(scores[:, 0], scores[:, 1])
    means = _cell_means(differences[None], np.zeros_like(of_target), of_target)[0]
    table = _cell_means(differences[None], of_seed, of_target)
    if np.isnan(table).any():  # seeds that are not all there are averaged first, and not resampled
        table = means[None]
    interval = stats.bootstrap(table, num_draws=2000) if len(targets) >= FEWEST_RESAMPLED else None
    logit_means = [
        _cell_means(logits[None, :, side], np.zeros_like(of_target), of_target)[0]
        for side in (0, 1)
    ]
    p = stats.paired_t_test(*logit_means)
    return Comparison(
        axis,
        setting,
        baseline,
        method,
        len(targets),
        len(seeds),
        float(means.mean()),
        _half_width(means),
        interval.low if interval else None,
        interval.high if interval else None,
        signs.wins,
        signs.ties,
        signs.losses,
        None if math.isnan(p) else p,
    )


def _paired(
    rows: Iterable[TransferRow], rest: Callable[[TransferRow], tuple[object, ...]]
) -> Pairs:
    found: Pairs = {}
    for row in rows:
        found.setdefault((row.seed, row.target, *rest(row)), []).append(row)
    return found


def _score(row: TransferRow) -> float:
    return row.score


def _logit(row: TransferRow) -> float:
    return row.logit


def _mean(rows: Sequence[TransferRow], measure: Callable[[TransferRow], float]) -> float:
    return sum(map(measure, rows)) / len(rows)


def _cell_means(values: np.ndarray, of_row: np.ndarray, of_column: np.ndarray) -> np.ndarray:
    """Means of values [1, P] by cell: [rows, columns], NaN where a cell has none."""
    shape = of_row.max() + 1, of_column.max() + 1
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (of_row, of_column), values[0])
    np.add.at(counts, (of_row, of_column), 1)
    return np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)


def _half_width(values: np.ndarray) -> float | None:
    """Of the 95 % t interval of a mean; None for one value."""
    if len(values) < 2:
        return None
    return float(scipy_stats.t.ppf(0.975, len(values) - 1) * scipy_stats.sem(values))


def against_scratch(rows: Iterable[TransferRow], names: dict[Source, str]) -> list[AgainstScratch]:
    """Each transfer at the full size of its target against scratch on the same architecture, clearly worse ones marked."""
    rows = at_full_size(rows)
    scratch = _paired((row for row in rows if row.kind == SCRATCH), _architecture)
    by_place: dict[tuple[object, ...], list[TransferRow]] = {}
    for (_, *place), baselines in scratch.items():
        by_place.setdefault(tuple(place), []).extend(baselines)
    found: dict[tuple[Source, str, str], list[TransferRow]] = {}
    for row in rows:
        if row.kind != SCRATCH and (row.target, *_architecture(row)) in by_place:
            found.setdefault((row.source, row.target, row.method), []).append(row)
    return [
        _against_scratch(names[source], mine, by_place[target, *_architecture(mine[0])])
        for (source, target, _), mine in found.items()
    ]


def _against_scratch(
    model: str, mine: Sequence[TransferRow], baselines: Sequence[TransferRow]
) -> AgainstScratch:
    scores, others = (np.array([row.score for row in side]) for side in (mine, baselines))
    interval = stats.welch(scores, others)
    verdict = (
        "one run"
        if interval is None
        else "negative"
        if interval.high < 0
        else "positive"
        if interval.low > 0
        else "not clear"
    )
    return AgainstScratch(
        model,
        mine[0].target,
        mine[0].method,
        float(scores.mean()),
        float(others.mean()),
        float(scores.mean() - others.mean()),
        interval.low if interval else None,
        interval.high if interval else None,
        min(len(scores), len(others)),
        mine[0].num_configs,
        baselines[0].num_configs,
        verdict,
    )
