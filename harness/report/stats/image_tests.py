"""Test two settings on one target image by image, from the predictions that transfers saved.

Top-1 is tested by McNemar's exact test if there is one seed. With several seeds, and for mean per
class and mAP, the test exchanges the two models' predictions on images (Kornblith et al. 2019,
appendix A.1): all exchanges for top-1 and mean per class, random ones for mAP, which is tested with
one seed only. The images are the sample: a small p means that the choice of test images does not
explain the difference of these two runs, not that runs with other seeds would differ.

A change of subset, eps or variant is a statement about pretraining, and all images of one model
share that model. The test is then a paired t-test over seeds, and one seed gives no p.
"""

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.report.data.records import (
    ModelId,
    TransferRow,
    at_full_size,
    format_eps,
    under_every_variant,
)
from harness.report.stats.effects import smallest_subset, source_sizes
from harness.report.stats.hypothesis_tests import (
    exchange_test,
    holm,
    one_sample_t_test,
    sign_flip_test,
)

SPLIT = "test"
MODEL_AXES = ("subset", "eps", "variant")  # axes that change pretraining
MAX_TESTS = 1000  # largest number of tests; reading a file and a test take about 1 ms each
NUM_MAP_PERMUTATIONS = 1000
MAX_CLASSES = 1_000_000  # largest number of classes, because the counts of each class take memory
Floats = NDArray[np.float64]
Predictions = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ImageTest:
    """Setting against baseline on one target, all else equal.

    Attributes:
        axis: subset, eps, variant, method or model.
        method: transfer method of both sides; "" if methods are compared.
        model: description of what the two models share.
        only_setting: images that only the setting classifies correctly, summed over seeds.
        difference: difference of the target's metric, as a fraction.
        test: name of the test.
        p: p-value; NaN if pretrained models are compared and there is only one pair, or if the
            differences of all pairs are equal.
        p_holm: p adjusted for all tests of the report.
    """

    axis: str
    setting: str
    baseline: str
    target: str
    method: str
    model: str
    metric: str
    num_images: int
    num_seeds: int
    only_setting: int
    only_baseline: int
    difference: float
    test: str
    p: float
    p_holm: float = math.nan


class _Contrast(NamedTuple):
    """Two settings to test against each other, and their rows in the same order of seeds."""

    axis: str
    setting: str
    baseline: str
    rows: Sequence[TransferRow]
    baseline_rows: Sequence[TransferRow]


class _Outcome(NamedTuple):
    num_images: int
    num_seeds: int
    only_setting: int
    only_baseline: int
    difference: float
    test: str
    p: float


def image_tests(
    rows: Iterable[TransferRow], predictions: Mapping[str, Path], names: Mapping[ModelId, str]
) -> list[ImageTest]:
    """Run at most MAX_TESTS tests.

    Args:
        rows: test scores of all transfers.
        predictions: key of a transfer -> its file of predictions. Transfers without a readable
            file are not tested.
        names: model -> its name.
    """
    rows = [row for row in at_full_size(rows) if row.key in predictions]
    read = lru_cache(maxsize=64)(lambda key: _read(predictions[key]))
    tests: list[ImageTest] = []
    for contrast in _contrasts(rows, names):
        if len(tests) == MAX_TESTS:
            break
        pairs = [
            (first, second)
            for row, other in zip(contrast.rows, contrast.baseline_rows, strict=True)
            if (first := read(row.key)) is not None and (second := read(other.key)) is not None
        ]
        sample = contrast.rows[0]
        if pairs and (outcome := _test(contrast.axis, sample.metric, pairs)) is not None:
            tests.append(
                ImageTest(
                    contrast.axis,
                    contrast.setting,
                    contrast.baseline,
                    sample.target,
                    "" if contrast.axis == "method" else sample.method,
                    _shared_axes(sample.model_id, contrast.axis),
                    sample.metric,
                    *outcome,
                )
            )
    adjusted = holm([test.p for test in tests])
    return [replace(test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)]


def _contrasts(rows: Sequence[TransferRow], names: Mapping[ModelId, str]) -> Iterator[_Contrast]:
    """Yield pairs of settings, all else equal, and the best two models of each target and method.

    Compared are the smallest and the largest subset and eps, and each variant and method with the
    first one.
    """
    for axis, (value_of, settings, baseline) in _extremes(rows).items():
        cells: dict[tuple[object, ...], dict[object, dict[int, TransferRow]]] = {}
        for row in under_every_variant(rows) if axis == "subset" else rows:
            if value_of(row) == baseline or value_of(row) in settings:
                values = {**row.model_id._asdict(), "method": row.method}
                other_axes = (value for name, value in values.items() if name != axis)
                cell = cells.setdefault((row.target, *other_axes), {})
                cell.setdefault(value_of(row), {})[row.seed] = row
        for cell in cells.values():
            for setting in settings:
                if seeds := sorted(set(cell.get(setting, {})) & set(cell.get(baseline, {}))):
                    yield _Contrast(
                        axis,
                        _format(setting),
                        _format(baseline),
                        [cell[setting][seed] for seed in seeds],
                        [cell[baseline][seed] for seed in seeds],
                    )
    yield from _best_two(rows, names)


def _extremes(
    rows: Sequence[TransferRow],
) -> dict[str, tuple[Callable[[TransferRow], object], list[object], object]]:
    """Return axis -> (function that reads a row's value, values to test, baseline value)."""
    sizes = source_sizes((), rows)
    eps = sorted({row.eps for row in rows if not row.model})
    variants = list(dict.fromkeys(row.variant for row in rows if not row.model))
    methods = list(dict.fromkeys(row.method for row in rows))
    extremes: dict[str, tuple[Callable[[TransferRow], object], list[object], object]] = {}
    if len(sizes) > 1:
        largest = max(sizes, key=lambda name: sizes[name])
        smallest = smallest_subset(sizes, [name for name in sizes if name != largest], largest)
        extremes["subset"] = lambda row: row.subset, [smallest], largest
    if len(eps) > 1:
        extremes["eps"] = lambda row: row.eps, [eps[-1]], eps[0]
    if len(variants) > 1:
        base = "" if "" in variants else variants[0]
        others: list[object] = [name for name in variants if name != base]
        extremes["variant"] = lambda row: row.variant, others, base
    if len(methods) > 1:
        extremes["method"] = lambda row: row.method, list(methods[1:]), methods[0]
    return extremes


def _shared_axes(model: ModelId, axis: str) -> str:
    """Describe what both models of a contrast share: all axes but the one that differs."""
    if axis == "model":
        return ""
    parts = {
        "arch": model.arch,
        "subset": model.subset,
        "variant": model.variant,
        "eps": f"eps {format_eps(model.eps)}",
    }
    return model.model or " ".join(part for name, part in parts.items() if part and name != axis)


def _format(value: object) -> str:
    return format_eps(value) if isinstance(value, float) else str(value) or "plain"


def _best_two(rows: Sequence[TransferRow], names: Mapping[ModelId, str]) -> Iterator[_Contrast]:
    """Yield the best model of each target and method against the next best.

    Yields nothing if models differ only in subset, variant and eps.
    """
    groups: dict[tuple[str, str], dict[ModelId, dict[int, TransferRow]]] = {}
    for row in rows:
        runs = groups.setdefault((row.target, row.method), {}).setdefault(row.model_id, {})
        runs[row.seed] = row
    for models in groups.values():
        if len({(model.model, model.arch) for model in models}) > 1:
            best, second = sorted(
                models.values(),
                key=lambda runs: -sum(row.score for row in runs.values()) / len(runs),
            )[:2]
            if seeds := sorted(set(best) & set(second)):
                first_rows, second_rows = (
                    [side[seed] for seed in seeds] for side in (best, second)
                )
                yield _Contrast(
                    "model",
                    names[first_rows[0].model_id],
                    names[second_rows[0].model_id],
                    first_rows,
                    second_rows,
                )


def _read(path: Path) -> Predictions | None:
    """Read a file of predictions; None if it is missing, damaged or incomplete."""
    try:
        with zipfile.ZipFile(path):  # np.load would also read a file that is not an archive
            pass
        with np.load(path) as arrays:
            names = ("sample", "label", f"{SPLIT}_correct", f"{SPLIT}_scores")
            loaded = {name: arrays[name] for name in names if name in arrays}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile):
        return None
    return loaded if _is_complete(loaded) else None


def _is_complete(loaded: Predictions) -> bool:
    """Check that the arrays have the same number of images, and the types that transfers save."""
    if not {"sample", "label", f"{SPLIT}_correct"} <= loaded.keys():
        return False
    sample, label, correct = (loaded[name] for name in ("sample", "label", f"{SPLIT}_correct"))
    has_types = sample.dtype.kind in "iu" and label.dtype.kind == "i" and correct.dtype == np.bool_
    if not has_types or sample.ndim != 1 or sample.size == 0 or correct.shape != sample.shape:
        return False
    if f"{SPLIT}_scores" in loaded:
        scores = loaded[f"{SPLIT}_scores"]
        return (
            scores.ndim == 2
            and label.shape == scores.shape
            and len(label) == len(sample)
            and bool(np.isfinite(scores).all())
        )
    return label.shape == sample.shape and int(label.min()) >= 0 and int(label.max()) < MAX_CLASSES


def _test(
    axis: str, metric: str, pairs: Sequence[tuple[Predictions, Predictions]]
) -> _Outcome | None:
    """Test one pair of runs per seed, over images or, for MODEL_AXES, over seeds.

    Returns:
        None if the files lack an array that the metric needs, or have different images, or if there
        are several seeds of a metric other than top-1 and mean per class.
    """
    reference = pairs[0][0]
    sides = [
        [_align(run, reference["sample"]) for run in column] for column in zip(*pairs, strict=True)
    ]
    firsts, seconds = ([run for run in side if run is not None] for side in sides)
    num_seeds, num_images, label = len(pairs), len(reference["sample"]), reference["label"]
    if len(firsts) < num_seeds or len(seconds) < num_seeds:
        return None
    first, second = (
        np.array([run[f"{SPLIT}_correct"] for run in side], np.int64) for side in (firsts, seconds)
    )
    only = int((first > second).sum()), int((second > first).sum())
    over_models = axis in MODEL_AXES
    differences = (first - second).sum(axis=0)
    if metric == "top1":
        if over_models:
            test = _over_seeds((first - second).mean(axis=1))
        else:
            name = "McNemar" if num_seeds == 1 else "exact exchange"
            test = name, exchange_test(differences)
        difference = float(differences.mean() / num_seeds)
        return _Outcome(num_images, num_seeds, *only, difference, *test)
    if metric == "mean_per_class":
        counts = np.bincount(label)
        weights = 1 / counts[label] / (counts > 0).sum()
        weighted = differences * weights / num_seeds
        if over_models:
            test = _over_seeds((first - second) @ weights)
        else:
            test = "exact exchange", sign_flip_test(weighted)
        return _Outcome(num_images, num_seeds, *only, float(weighted.sum()), *test)
    if num_seeds > 1 or any(f"{SPLIT}_scores" not in run for run in (firsts[0], seconds[0])):
        return None
    from harness.report.stats import map_test  # takes a second to compile

    scores = (firsts[0][f"{SPLIT}_scores"], seconds[0][f"{SPLIT}_scores"], label)
    if over_models:
        difference = map_test.map11_difference(*scores)
        test = _over_seeds(np.array([difference]))
    else:
        difference, p = map_test.map11_permutation_test(
            *scores, num_permutations=NUM_MAP_PERMUTATIONS
        )
        test = "permutation", p
    return _Outcome(num_images, 1, *only, difference, *test)


def _over_seeds(differences: Floats) -> tuple[str, float]:
    """Return name and p of the test over the differences [S] of S pairs of pretrained models."""
    name = "one pair of models" if len(differences) == 1 else "paired t over seeds"
    return name, one_sample_t_test(differences)


def _align(predictions: Predictions, reference: NDArray[Any]) -> Predictions | None:
    """Reorder the arrays by the sample ids `reference`; None if the images differ."""
    if np.array_equal(predictions["sample"], reference):
        return predictions
    order, wanted = np.argsort(predictions["sample"]), np.argsort(reference)
    if not np.array_equal(predictions["sample"][order], reference[wanted]):
        return None
    position = np.empty_like(order)
    position[wanted] = order
    return {name: array[position] for name, array in predictions.items()}
