"""Build the score matrix of a method (models x targets), and rank its models."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.report.data.records import (
    KNN,
    ModelId,
    ScoreRow,
    TransferRow,
    at_full_size,
    format_eps,
)
from harness.report.stats import elo, summaries
from harness.report.stats.hypothesis_tests import sign_test

Floats = NDArray[np.float64]
MIN_MODELS = 4  # smallest number of models for a correlation; over fewer it means nothing
TOP = 5  # number of best models per target that `times_in_top` counts
MIN_SEEDS = 3  # smallest number of seeds for a median


@dataclass(frozen=True)
class ScoreMatrix:
    """Scores of M models on D targets. NaN means not measured or unknown.

    Attributes:
        is_head_only: True if the method does not train the backbone.
        names: names of the models.
        scores: float64 [M, D], the targets' own metrics, means over seeds, as fractions.
        logits: float64 [M, D], logits of the scores, means over seeds.
        source_accuracy: float64 [M], as fractions.
        rounds: scores [M] of each target and seed, the rounds of `harness.report.stats.elo`.
        networks: architecture of each model, without its library and weights.
        num_parameters: float64 [M]; NaN if unknown.
    """

    method: str
    is_head_only: bool
    model_ids: tuple[ModelId, ...]
    names: tuple[str, ...]
    targets: tuple[str, ...]
    scores: Floats
    logits: Floats
    source_accuracy: Floats
    rounds: tuple[Floats, ...]
    networks: tuple[str, ...]
    num_parameters: Floats

    @property
    def has_many_models(self) -> bool:
        """True if at least MIN_MODELS differ by more than their subset and eps.

        Subsets and eps have their own comparisons.
        """
        kinds = {(model.model, model.arch, model.variant) for model in self.model_ids}
        return len(kinds) >= MIN_MODELS

    def complete(self) -> "ScoreMatrix":
        """Select a part without gaps: the models and targets with the largest number of scores.

        A single model with more targets than the others therefore does not exclude the others. If
        parts are of equal size, the one with more targets is selected.
        """
        rows, columns = largest_block(~np.isnan(self.scores))
        return self.part(rows, columns)

    def part(self, rows: Sequence[int], columns: Sequence[int]) -> "ScoreMatrix":
        """Select models and targets by position; `rounds` keeps all targets."""
        index = np.array(rows, np.int64)
        return ScoreMatrix(
            self.method,
            self.is_head_only,
            tuple(self.model_ids[row] for row in rows),
            tuple(self.names[row] for row in rows),
            tuple(self.targets[column] for column in columns),
            self.scores[np.ix_(index, np.array(columns, np.int64))],
            self.logits[np.ix_(index, np.array(columns, np.int64))],
            self.source_accuracy[index],
            tuple(scores[index] for scores in self.rounds),
            tuple(self.networks[row] for row in rows),
            self.num_parameters[index],
        )


def largest_block(measured: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """Select rows and columns without gaps: the block with the most cells among some candidates.

    The candidates for the columns are the columns of each row, the k best-covered columns for each
    k, and the columns that all rows have. If blocks are of equal size, the one with more columns is
    selected.

    Args:
        measured: bool [M, D].

    Returns:
        Positions of rows and of columns; empty if nothing is measured.
    """
    if not measured.any():
        return [], []
    order = np.argsort(-measured.sum(axis=0), kind="stable")
    # Row k of `firsts` selects the k + 1 best-covered columns.
    firsts = np.tri(len(order), dtype=bool)[:, np.argsort(order)]
    candidates = np.unique(np.vstack([measured, firsts, measured.all(axis=0)]), axis=0)
    covered = candidates.astype(np.int64) @ measured.T.astype(np.int64)  # [candidate, row]
    num_columns = candidates.sum(axis=1)
    num_rows = (covered == num_columns[:, None]).sum(axis=1)
    best = np.lexsort((num_columns, num_rows * num_columns))[-1]
    columns = np.flatnonzero(candidates[best])
    return np.flatnonzero(measured[:, columns].all(axis=1)).tolist(), columns.tolist()


def model_names(rows: Iterable[TransferRow | ScoreRow]) -> dict[ModelId, str]:
    """Name the recipe's `models` by label, others by the axes (arch, subset, ...) that differ."""
    models = list(dict.fromkeys(row.model_id for row in rows))
    varies = [len({model[index] for model in models if not model.model}) > 1 for index in range(5)]
    names = {}
    for model in models:
        parts = [model.arch, model.subset, model.variant or "plain", f"eps {format_eps(model.eps)}"]
        shown = [part for part, differs in zip(parts, varies[1:], strict=True) if differs and part]
        names[model] = model.model or " ".join(shown) or model.arch
    return names


def score_matrices(
    rows: Iterable[TransferRow], names: Mapping[ModelId, str]
) -> dict[str, ScoreMatrix]:
    """Return method -> score matrix of the rows of `at_full_size`, without scratch methods."""
    return _matrices([row for row in rows if not row.is_scratch], names)


def scratch_matrices(
    rows: Iterable[TransferRow], names: Mapping[ModelId, str]
) -> dict[str, ScoreMatrix]:
    """Return scratch method -> score matrix.

    A row is an architecture that the recipe trains, or that of one of its `models`. The source
    accuracy of a row is that of the first model with this architecture.
    """
    rows = list(rows)
    known: dict[str, float] = {}
    for row in rows:
        if row.network and row.source_accuracy is not None:
            known.setdefault(row.network, row.source_accuracy)
    return _matrices(
        [
            replace(row, source_accuracy=known.get(row.network, row.source_accuracy))
            for row in rows
            if row.is_scratch
        ],
        names,
    )


def _matrices(rows: Sequence[TransferRow], names: Mapping[ModelId, str]) -> dict[str, ScoreMatrix]:
    by_method: dict[str, list[TransferRow]] = {}
    for row in at_full_size(rows):
        by_method.setdefault(row.method, []).append(row)
    return {method: _score_matrix(method, group, names) for method, group in by_method.items()}


def _score_matrix(
    method: str, rows: Sequence[TransferRow], names: Mapping[ModelId, str]
) -> ScoreMatrix:
    models = {model: i for i, model in enumerate(dict.fromkeys(row.model_id for row in rows))}
    targets = {target: i for i, target in enumerate(dict.fromkeys(row.target for row in rows))}
    score_sums, logit_sums, counts = np.zeros((3, len(models), len(targets)))
    known: dict[ModelId, list[float]] = {}
    networks = {row.model_id: row.network or names[row.model_id] for row in rows}
    sizes = {row.model_id: row.num_parameters for row in rows if row.num_parameters is not None}
    rounds: dict[tuple[str, int], Floats] = {}
    logits = summaries.logit([row.score for row in rows], [row.num_images for row in rows])
    for row, logit in zip(rows, logits, strict=True):
        place = models[row.model_id], targets[row.target]
        score_sums[place] += row.score
        logit_sums[place] += logit
        counts[place] += 1
        rounds.setdefault((row.target, row.seed), np.full(len(models), math.nan))[place[0]] = (
            row.score
        )
        if row.source_accuracy is not None:
            known.setdefault(row.model_id, []).append(row.source_accuracy)
    counts = np.where(counts > 0, counts, math.nan)
    return ScoreMatrix(
        method,
        all(row.is_head_only for row in rows),
        tuple(models),
        tuple(names[model] for model in models),
        tuple(targets),
        score_sums / counts,
        logit_sums / counts,
        np.array([np.mean(known[model]) if model in known else math.nan for model in models]),
        tuple(rounds.values()),
        tuple(networks[model] for model in models),
        np.array([sizes.get(model, math.nan) for model in models]),
    )


@dataclass(frozen=True)
class RankedModel:
    """One model's row of a method's ranking.

    Attributes:
        num_targets: number of targets that the mean is taken over.
        standard_error: of `mean_logit`, over targets, without differences in difficulty between
            targets (Morey 2008); None if the model lacks a target of the others, or if undefined.
        times_in_top: targets on which the model is among the TOP best.
        elo: Elo strength in log-odds (`harness.report.stats.elo`).
        elo_standard_error: None if the model won or lost every match: its strength then has a
            bound on one side only.
        p_next: two-sided p of the sign test over targets against the next model of the ranking;
            None for the last model, and if the two models share no target.
    """

    method: str
    model: str
    source_accuracy: float | None
    num_targets: int
    mean_logit: float
    standard_error: float | None
    times_in_top: int
    elo: float
    elo_standard_error: float | None
    p_next: float | None
    num_rounds: int


def ranking(matrix: ScoreMatrix) -> list[RankedModel]:
    """Rank the models by Elo strength, best first.

    Empty if `has_many_models` is False, or if no two models share a target and a seed.
    """
    rounds = [scores for scores in matrix.rounds if np.isfinite(scores).sum() > 1]
    if not matrix.has_many_models or not rounds:
        return []
    wins = elo.count_wins(rounds)
    strengths = elo.fit(wins)
    errors = np.where(
        (wins.sum(axis=0) > 0) & (wins.sum(axis=1) > 0),
        np.sqrt(np.diag(strengths.covariance)),
        math.nan,
    )
    full = matrix.complete()
    means = summaries.dataset_adjusted_means(full.logits) if full.targets else None
    position = {name: index for index, name in enumerate(full.names if full.targets else ())}
    top = summaries.times_in_top(TOP, matrix.scores)
    ranked = []
    order = np.argsort(-strengths.strengths, kind="stable").tolist()
    for index, below in zip(order, [*order[1:], None], strict=True):
        at = position.get(matrix.names[index])
        ranked.append(
            RankedModel(
                matrix.method,
                matrix.names[index],
                _none_if_nan(matrix.source_accuracy[index]),
                int(np.isfinite(matrix.scores[index]).sum()) if at is None else len(full.targets),
                float(np.nanmean(matrix.logits[index]))
                if at is None or means is None
                else float(means.mean[at]),
                None if at is None or means is None else _none_if_nan(means.standard_error[at]),
                int(top[index]),
                float(strengths.strengths[index]),
                _none_if_nan(errors[index]),
                None if below is None else _p_better(matrix.scores[index], matrix.scores[below]),
                sum(bool(np.isfinite(scores[index])) for scores in rounds),
            )
        )
    return ranked


@dataclass(frozen=True)
class TopCount:
    """Number of targets on which one model is among the TOP best by a score.

    Attributes:
        num_targets: number of targets for which the model has this score.
    """

    score: str
    model: str
    times_in_top: int
    num_targets: int


def top_counts(
    rows: Iterable[ScoreRow], names: Mapping[ModelId, str], score: str = KNN
) -> list[TopCount]:
    """Count the targets on which each model is among the TOP best, highest count first.

    Args:
        rows: scores of all models on all targets.
        names: model -> its name in this report.
        score: name of the score.

    Returns:
        Empty if there are at most TOP models: all of them would be among the best.
    """
    cells: dict[tuple[ModelId, str], list[float]] = {}
    for row in rows:
        if row.name == score:
            cells.setdefault((row.model_id, row.target), []).append(row.value)
    models = list(dict.fromkeys(model for model, _ in cells))
    targets = list(dict.fromkeys(target for _, target in cells))
    if len(models) <= TOP:
        return []
    row_of = {model: index for index, model in enumerate(models)}
    column_of = {target: index for index, target in enumerate(targets)}
    values = np.full((len(models), len(targets)), math.nan)
    for (model, target), found in cells.items():
        values[row_of[model], column_of[target]] = sum(found) / len(found)
    times = summaries.times_in_top(TOP, values).tolist()
    num_targets = np.isfinite(values).sum(axis=1).tolist()
    counts = [
        TopCount(score, names[model], time, number)
        for model, time, number in zip(models, times, num_targets, strict=True)
    ]
    return sorted(counts, key=lambda count: -count.times_in_top)


def _p_better(scores: Floats, other_scores: Floats) -> float | None:
    """Return the two-sided p of the sign test over the targets [D] that both models have.

    Returns 1 if the first model did not win more targets, None if the models share no target.
    """
    both = np.isfinite(scores) & np.isfinite(other_scores)
    signs = sign_test(scores[both], other_scores[both])
    return (signs.p if signs.wins > signs.losses else 1.0) if both.any() else None


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True)
class SeedMedian:
    """Mean over targets of one model's medians over seeds; VTAB reports three runs in this way.

    Attributes:
        num_seeds: smallest number of seeds on any target.
        score: mean of the medians, as a fraction in the targets' own metrics.
    """

    method: str
    model: str
    num_targets: int
    num_seeds: int
    score: float


def seed_medians(rows: Iterable[TransferRow], names: Mapping[ModelId, str]) -> list[SeedMedian]:
    """Compute the medians of the recipe's `models` over at least MIN_SEEDS seeds, the best first.

    A target is used for a method if all models of the method have at least MIN_SEEDS seeds on it.
    """
    scores: dict[str, dict[ModelId, dict[str, list[float]]]] = {}
    for row in at_full_size(rows):
        if row.model and not row.is_scratch:
            of_model = scores.setdefault(row.method, {}).setdefault(row.model_id, {})
            of_model.setdefault(row.target, []).append(row.score)
    medians = []
    for method, models in scores.items():
        complete = [
            {target for target, values in of_model.items() if len(values) >= MIN_SEEDS}
            for of_model in models.values()
        ]
        if targets := set.intersection(*complete):
            found = [
                SeedMedian(
                    method,
                    names[model],
                    len(targets),
                    min(len(of_model[target]) for target in targets),
                    statistics.fmean(statistics.median(of_model[target]) for target in targets),
                )
                for model, of_model in models.items()
            ]
            medians += sorted(found, key=lambda row: -row.score)
    return medians
