"""Two settings on one target, image by image: tests from the predictions that transfer stages left on disk.

Top-1: McNemar's exact test. Mean per class and mAP: permutations that exchange the two models' answers. Kornblith et al.
2019, A.1. The images are the sample here: p says whether the test images suffice to tell the two runs apart.
"""

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness.report.data.rows import (
    Source,
    TransferRow,
    at_full_size,
    shown_eps,
    under_every_variant,
)
from harness.report.stats import hypothesis_tests as stats
from harness.report.stats.effects import smallest_subset, source_sizes

SPLIT = "test"
MOST_TESTS = 1000  # a file takes about a millisecond to read, and a test as long
NUM_MAP_PERMUTATIONS = 1000
Predictions = Mapping[str, np.ndarray]
Contrast = tuple[
    str, str, str, Sequence[TransferRow], Sequence[TransferRow]
]  # axis, setting, baseline, their rows by seed


@dataclass(frozen=True)
class ImageTest:
    """Setting against baseline on one target, all else equal."""

    axis: str  # subset, eps, variant, method or model
    setting: str
    baseline: str
    target: str
    method: str  # by which both were transferred; empty where methods are compared
    model: str  # what both have in common
    metric: str
    num_images: int
    num_seeds: int
    only_setting: int  # images that only the setting has right, over all seeds
    only_baseline: int
    difference: float  # of the metric, as a fraction
    test: str
    p: float
    p_holm: float = math.nan  # the same, for all tests of the report together


def image_tests(
    rows: Iterable[TransferRow], predictions: Mapping[str, Path], names: Mapping[Source, str]
) -> list[ImageTest]:
    """predictions: key of a transfer -> its file. Those without a readable file make no test; at most MOST_TESTS are made."""
    rows = [row for row in at_full_size(rows) if row.key in predictions]
    read = lru_cache(maxsize=64)(lambda key: _read(predictions[key]))
    found: list[ImageTest] = []
    for axis, setting, baseline, first, second in _contrasts(rows, names):
        if len(found) == MOST_TESTS:
            break
        pairs = [
            (one, two)
            for row, other in zip(first, second, strict=True)
            if (one := read(row.key)) is not None and (two := read(other.key)) is not None
        ]
        if pairs:
            sample = first[0]
            tested = _test(sample.metric, pairs)
            if tested is not None:
                found.append(
                    ImageTest(
                        axis,
                        setting,
                        baseline,
                        sample.target,
                        "" if axis == "method" else sample.method,
                        _shared(sample.source, axis),
                        sample.metric,
                        *tested,
                    )
                )
    return [
        replace(one, p_holm=p)
        for one, p in zip(found, stats.holm([one.p for one in found]), strict=True)
    ]


def _contrasts(rows: Sequence[TransferRow], names: Mapping[Source, str]) -> Iterator[Contrast]:
    """The ends of each axis, all else equal; where there are many models, the best two of a target."""
    sizes = source_sizes((), rows)
    eps = sorted({row.eps for row in rows if not row.model})
    variants = list(dict.fromkeys(row.variant for row in rows if not row.model))
    methods = list(dict.fromkeys(row.method for row in rows))
    ends: dict[str, tuple[Callable[[TransferRow], object], list[object], object]] = {}
    if len(sizes) > 1:
        largest = max(sizes, key=lambda name: sizes[name])
        smallest = smallest_subset(sizes, [name for name in sizes if name != largest], largest)
        ends["subset"] = lambda row: row.subset, [smallest], largest
    if len(eps) > 1:
        ends["eps"] = lambda row: row.eps, [eps[-1]], eps[0]
    if len(variants) > 1:
        plain = "" if "" in variants else variants[0]
        ends["variant"] = (
            lambda row: row.variant,
            [name for name in variants if name != plain],
            plain,
        )
    if len(methods) > 1:
        ends["method"] = lambda row: row.method, list(methods[1:]), methods[0]
    for axis, (value_of, settings, baseline) in ends.items():
        cells: dict[tuple[object, ...], dict[object, dict[int, TransferRow]]] = {}
        for row in under_every_variant(rows) if axis == "subset" else rows:
            if value_of(row) == baseline or value_of(row) in settings:
                rest = (
                    row.target,
                    *(
                        part
                        for name, part in zip(
                            ("model", "arch", "subset", "variant", "eps", "method"),
                            (*row.source, row.method),
                            strict=True,
                        )
                        if name != axis
                    ),
                )
                cells.setdefault(rest, {}).setdefault(value_of(row), {})[row.seed] = row
        for cell in cells.values():
            for setting in settings:
                seeds = sorted(set(cell.get(setting, {})) & set(cell.get(baseline, {})))
                if seeds:
                    yield (
                        axis,
                        _shown(setting),
                        _shown(baseline),
                        [cell[setting][seed] for seed in seeds],
                        [cell[baseline][seed] for seed in seeds],
                    )
    yield from _best_two(rows, names)


def _shared(source: Source, axis: str) -> str:
    """What both models of a contrast have in common: their axes but for the one that differs."""
    model, arch, subset, variant, eps = source
    parts = {"arch": arch, "subset": subset, "variant": variant, "eps": f"eps {shown_eps(eps)}"}
    return (
        ""
        if axis == "model"
        else model or " ".join(part for name, part in parts.items() if part and name != axis)
    )


def _shown(value: object) -> str:
    return shown_eps(value) if isinstance(value, float) else str(value) or "plain"


def _best_two(rows: Sequence[TransferRow], names: Mapping[Source, str]) -> Iterator[Contrast]:
    """Of adopted models and of several architectures: the best of each target and method against the next."""
    groups: dict[tuple[str, str], dict[Source, dict[int, TransferRow]]] = {}
    for row in rows:
        groups.setdefault((row.target, row.method), {}).setdefault(row.source, {})[row.seed] = row
    for models in groups.values():
        if len({source[:2] for source in models}) > 1:
            best, second = sorted(
                models.values(),
                key=lambda runs: -sum(row.score for row in runs.values()) / len(runs),
            )[:2]
            if seeds := sorted(set(best) & set(second)):
                first = [best[seed] for seed in seeds], [second[seed] for seed in seeds]
                yield "model", names[first[0][0].source], names[first[1][0].source], *first


def _read(path: Path) -> Predictions | None:
    try:
        with np.load(path) as arrays:
            wanted = ("sample", "label", f"{SPLIT}_correct", f"{SPLIT}_scores")
            found = {name: arrays[name] for name in wanted if name in arrays}
            return found if set(wanted[:3]) <= set(found) else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


class _Outcome(NamedTuple):
    num_images: int
    num_seeds: int
    only_setting: int
    only_baseline: int
    difference: float
    test: str
    p: float


def _test(metric: str, pairs: Sequence[tuple[Predictions, Predictions]]) -> _Outcome | None:
    """None where the files do not serve the metric, or hold other images than each other."""
    reference = pairs[0][0]
    sides = [
        [_aligned(run, reference["sample"]) for run in column]
        for column in zip(*pairs, strict=True)
    ]
    firsts, seconds = ([run for run in side if run is not None] for side in sides)
    num_seeds, num_images, label = len(pairs), len(reference["sample"]), reference["label"]
    if len(firsts) < num_seeds or len(seconds) < num_seeds:
        return None
    first, second = (
        np.array([run[f"{SPLIT}_correct"] for run in side], np.int64) for side in (firsts, seconds)
    )
    only = int((first > second).sum()), int((second > first).sum())
    differences = (first - second).sum(axis=0)
    if metric == "top1":
        name = "McNemar" if num_seeds == 1 else "exact exchange"
        return _Outcome(
            num_images,
            num_seeds,
            *only,
            float(differences.mean() / num_seeds),
            name,
            stats.exchange_test(differences),
        )
    if metric == "mean_per_class":
        counts = np.bincount(label)
        weighted = differences / counts[label] / (counts > 0).sum() / num_seeds
        return _Outcome(
            num_images,
            num_seeds,
            *only,
            float(weighted.sum()),
            "permutation",
            stats.sign_flip_test(weighted),
        )
    if num_seeds > 1 or any(f"{SPLIT}_scores" not in run for run in (firsts[0], seconds[0])):
        return None
    difference, p = stats.map11_permutation_test(
        firsts[0][f"{SPLIT}_scores"],
        seconds[0][f"{SPLIT}_scores"],
        label,
        num_permutations=NUM_MAP_PERMUTATIONS,
    )
    return _Outcome(num_images, 1, *only, difference, "permutation", p)


def _aligned(side: Predictions, reference: np.ndarray) -> Predictions | None:
    """The arrays in the order of the sample ids `reference`; None where the images are others."""
    if np.array_equal(side["sample"], reference):
        return side
    order, wanted = np.argsort(side["sample"]), np.argsort(reference)
    if not np.array_equal(side["sample"][order], reference[wanted]):
        return None
    place = np.empty_like(order)
    place[wanted] = order
    return {name: array[place] for name, array in side.items()}
