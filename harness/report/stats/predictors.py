"""Measure how well cheap scores predict the accuracy that models reach after transfer."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.report.data.records import ModelId, ScoreRow
from harness.report.stats import summaries
from harness.report.stats.intervals import t_half_width
from harness.report.stats.leaderboard import MIN_MODELS, TOP, ScoreMatrix

Floats = NDArray[np.float64]
SOURCE_ACCURACY = "source accuracy"
IMAGENET_ACCURACY = "ImageNet accuracy only"  # if all models are published ImageNet models
PARAMETERS = "parameters only"
_FAMILY = re.compile(r"(?:tf_)?((?:wide_)?[a-z]+)")


@dataclass(frozen=True)
class PredictorRow:
    """How well one predictor predicts a method's accuracy on one target.

    All models with both a value of the predictor and an accuracy are used.

    Attributes:
        predictor: a score, SOURCE_ACCURACY or IMAGENET_ACCURACY, PARAMETERS, or the accuracy of a
            method that trains the head only.
        method: the method whose accuracy is predicted.
        k: number of models that recall_at_k (Rec@k) and relative_accuracy_at_k (Rel@k of
            Li et al. 2021) select.
        partial_given_size: Pearson correlation given the logarithm of the number of parameters,
            over the models with a known number. None if these are fewer than MIN_MODELS, if the
            number is the predictor itself, or if the correlation is undefined.
        lowest_without_family: lowest weighted Kendall if one family of architectures is left out.
            None if fewer than MIN_MODELS would be left, or if it is undefined for each family.
        family: the family that is left out for lowest_without_family.
    """

    predictor: str
    method: str
    target: str
    num_models: int
    weighted_kendall: float
    pearson: float
    spearman: float
    k: int
    recall_at_k: float
    relative_accuracy_at_k: float
    partial_given_size: float | None = None
    lowest_without_family: float | None = None
    family: str = ""


@dataclass(frozen=True)
class PredictorFit:
    """Means of a predictor's measures over the targets.

    Attributes:
        k: smallest k on any target.
        num_models: smallest number of models on any target.
        half_width_95: half the 95 % t interval of weighted_kendall over targets; None for one
            target, and if all targets have the same value.
        partial_given_size: mean over the targets that have it; None if none has.
        lowest_without_family: mean over the targets that have it; None if none has.
    """

    predictor: str
    method: str
    num_targets: int
    num_models: int
    weighted_kendall: float
    half_width_95: float | None
    pearson: float
    spearman: float
    k: int
    recall_at_k: float
    relative_accuracy_at_k: float
    partial_given_size: float | None = None
    lowest_without_family: float | None = None


def predictor_rows(
    scores: Iterable[ScoreRow], matrices: Mapping[str, ScoreMatrix]
) -> list[PredictorRow]:
    """Compare predictors with the accuracy of each method.

    The predictors are all scores, the number of parameters, and source accuracy. A predictor has no
    row for a target with fewer than MIN_MODELS models or with constant values. If the method
    trains more than the head, the accuracy of each method that trains only the head is a predictor,
    too.
    """
    values: dict[str, dict[tuple[str, ModelId], list[float]]] = {}
    for row in scores:
        values.setdefault(row.name, {}).setdefault((row.target, row.model_id), []).append(row.value)
    means = {
        name: {place: sum(cell) / len(cell) for place, cell in cells.items()}
        for name, cells in values.items()
    }
    rows = []
    for method, matrix in matrices.items():
        # Models that differ only in subset and eps have one size: only scores can rank them.
        if not (means or matrix.has_many_models):
            continue
        for name, cells in _predictors(method, matrices, means).items():
            for column, target in enumerate(matrix.targets):
                pairs = np.array(
                    [
                        (cells.get((target, model), math.nan), matrix.scores[row_index, column])
                        for row_index, model in enumerate(matrix.model_ids)
                    ]
                )
                used = np.flatnonzero(np.isfinite(pairs).all(axis=1))
                pairs = pairs[used]
                if len(pairs) >= MIN_MODELS and np.ptp(pairs[:, 0]) and np.ptp(pairs[:, 1]):
                    fit = _predictor_row(name, method, target, *pairs.T)
                    families = [family_of(matrix.networks[index]) for index in used]
                    sizes = matrix.num_parameters[used]
                    rows.append(_with_controls(fit, pairs, sizes, families))
    return rows


def _predictors(
    method: str,
    matrices: Mapping[str, ScoreMatrix],
    means: Mapping[str, dict[tuple[str, ModelId], float]],
) -> dict[str, dict[tuple[str, ModelId], float]]:
    """Return predictor -> (target, model) -> value, for the predictors of `method`."""
    matrix = matrices[method]
    predictors = dict(means)
    are_loaded = all(model.model for model in matrix.model_ids)
    for name, values in (
        (PARAMETERS, matrix.num_parameters),
        (IMAGENET_ACCURACY if are_loaded else SOURCE_ACCURACY, matrix.source_accuracy),
    ):
        predictors[name] = {
            (target, model): float(value)
            for model, value in zip(matrix.model_ids, values, strict=True)
            for target in matrix.targets
        }
    for name, other in matrices.items():
        if other.is_head_only and not matrix.is_head_only:
            predictors[f"{name} accuracy"] = {
                (target, model): float(other.scores[row, column])
                for row, model in enumerate(other.model_ids)
                for column, target in enumerate(other.targets)
            }
    return predictors


def _predictor_row(
    predictor: str, method: str, target: str, score: Floats, accuracy: Floats
) -> PredictorRow:
    k = min(TOP, max(1, len(score) // 3))
    correlation = summaries.correlation(score, accuracy)
    return PredictorRow(
        predictor,
        method,
        target,
        len(score),
        summaries.weighted_kendall(score, accuracy),
        correlation.r,
        correlation.rho,
        k,
        summaries.recall_at(k, score, accuracy),
        summaries.relative_accuracy_at(k, score, accuracy),
    )


def family_of(network: str) -> str:
    """Return the family of an architecture: its letters up to a number or an underscore.

    The prefix `tf_` is left out, and `wide_` is part of the family.

    `resnet50` and `resnet152` are in the family resnet, `wide_resnet101_2` is in wide_resnet.
    """
    match = _FAMILY.match(network)
    return match[1] if match else network


def _with_controls(
    row: PredictorRow, pairs: Floats, sizes: Floats, families: Sequence[str]
) -> PredictorRow:
    """Add partial_given_size, lowest_without_family and family to a row.

    Args:
        row: one predictor on one target.
        pairs: predictor and accuracy of the models, float64 [M, 2].
        sizes: numbers of parameters, float64 [M]; NaN if unknown.
        families: families of the models.
    """
    partial = math.nan
    known = np.isfinite(sizes)
    if row.predictor != PARAMETERS and known.sum() >= MIN_MODELS:
        score, accuracy = pairs[known].T
        partial = summaries.partial_correlation(score, accuracy, np.log(sizes[known]))
    names = list(dict.fromkeys(families))
    groups = np.array([names.index(family) for family in families])
    kendall = summaries.weighted_kendall_without(pairs[:, 0], pairs[:, 1], groups)
    num_left = len(families) - np.bincount(groups)
    without = {
        family: float(value)
        for family, value, number in zip(names, kendall, num_left, strict=True)
        if number >= MIN_MODELS and np.isfinite(value)
    }
    lowest = min(without, key=lambda name: without[name], default="")
    return replace(
        row,
        partial_given_size=partial if math.isfinite(partial) else None,
        lowest_without_family=without.get(lowest),
        family=lowest,
    )


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def predictor_fits(rows: Iterable[PredictorRow]) -> list[PredictorFit]:
    """Average the rows over targets; for each method, the best predictor first."""
    groups: dict[tuple[str, str], list[PredictorRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.predictor), []).append(row)
    fits = []
    for (method, predictor), group in groups.items():
        kendall = np.array([row.weighted_kendall for row in group])
        fits.append(
            PredictorFit(
                predictor,
                method,
                len(group),
                min(row.num_models for row in group),
                float(np.mean(kendall)),
                t_half_width(kendall),
                float(np.mean([row.pearson for row in group])),
                float(np.mean([row.spearman for row in group])),
                min(row.k for row in group),
                float(np.mean([row.recall_at_k for row in group])),
                float(np.mean([row.relative_accuracy_at_k for row in group])),
                _mean_of_known(row.partial_given_size for row in group),
                _mean_of_known(row.lowest_without_family for row in group),
            )
        )
    methods = list(dict.fromkeys(fit.method for fit in fits))
    return sorted(fits, key=lambda fit: (methods.index(fit.method), -fit.weighted_kendall))


def gap_to_runner_up(
    rows: Iterable[PredictorRow], best: PredictorFit, second: PredictorFit
) -> tuple[float, float | None] | None:
    """Compute the difference in weighted Kendall of two predictors, paired by target.

    Returns:
        The mean difference and half its 95 % t interval over targets, which is None if the
        difference is the same on all targets. None if the two predictors share fewer than two
        targets.
    """
    by_target: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.method == best.method and row.predictor in (best.predictor, second.predictor):
            by_target.setdefault(row.target, {})[row.predictor] = row.weighted_kendall
    differences = np.array(
        [
            both[best.predictor] - both[second.predictor]
            for both in by_target.values()
            if len(both) == 2
        ]
    )
    if len(differences) < 2:
        return None
    return float(np.mean(differences)), t_half_width(differences)
