"""Correlate transfer with source accuracy over architectures; count wins between methods.

Both comparisons are those of Kornblith, Shlens and Le 2019. Models of one architecture that differ
in training are not independent, so only one model of each architecture is used
(`one_per_architecture`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.report.stats import summaries
from harness.report.stats.hypothesis_tests import sign_test
from harness.report.stats.leaderboard import MIN_MODELS, ScoreMatrix

NUM_SOURCE_IMAGES = 50_000  # validation images of ImageNet; bounds the logit of an accuracy of 1
ALL_TARGETS = "all"


@dataclass(frozen=True)
class Association:
    """Correlation of transfer accuracy with source accuracy, both as logits. Points: architectures.

    The transfer accuracy of an architecture is the mean of its logits over the targets.

    Attributes:
        num_models: number of architectures; each has one model.
        r: Pearson's correlation; low_95 and high_95 are the bounds of its 95 % interval.
        rho: Spearman's rank correlation.
        left_out: models of `one_per_architecture` that are not used, because their source accuracy
            is unknown, or because they lack a result on one of the targets.
    """

    method: str
    num_models: int
    num_targets: int
    r: float
    low_95: float
    high_95: float
    rho: float
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class SignRow:
    """How often one method beat another on the same architecture.

    Attributes:
        target: name of the target, or ALL_TARGETS for the sum over targets.
        num_pairs: number of architectures with a score for both methods; the sum over targets if
            target is ALL_TARGETS.
    """

    method: str
    baseline: str
    target: str
    wins: int
    ties: int
    num_pairs: int


def one_per_architecture(matrix: ScoreMatrix) -> ScoreMatrix:
    """Select one model of every architecture.

    Models with a known source accuracy are preferred, then published models (the recipe's
    `models`), then models that come first in the recipe.
    """
    networks = matrix.networks
    by_preference = sorted(
        range(len(networks)),
        key=lambda row: (
            bool(np.isnan(matrix.source_accuracy[row])),
            not matrix.model_ids[row].model,
        ),
    )
    chosen: dict[str, int] = {}
    for row in by_preference:
        chosen.setdefault(networks[row], row)
    return matrix.part(sorted(chosen.values()), range(len(matrix.targets)))


def comparable(matrix: ScoreMatrix) -> ScoreMatrix:
    """Select the data of a correlation: models with known source accuracy, without missing results.

    If a result is missing, its model or its target is left out; see `ScoreMatrix.complete`.
    """
    single = one_per_architecture(matrix)
    known = np.flatnonzero(np.isfinite(single.source_accuracy)).tolist()
    return single.part(known, range(len(single.targets))).complete()


def association(matrix: ScoreMatrix, full: ScoreMatrix) -> Association | None:
    """Correlate mean transfer with source accuracy over architectures.

    Args:
        matrix: scores of all models.
        full: `comparable(matrix)`, the scores from which the correlation is computed.

    Returns:
        None if fewer than MIN_MODELS architectures are left in `full`, if there is no target, or if
        the source accuracy or the mean transfer does not vary.
    """
    if len(full.names) < MIN_MODELS or not full.targets:
        return None
    result = summaries.correlation(
        summaries.logit(full.source_accuracy, NUM_SOURCE_IMAGES), full.logits.mean(axis=1)
    )
    if math.isnan(result.r):
        return None
    left_out = set(one_per_architecture(matrix).names) - set(full.names)
    return Association(
        matrix.method,
        result.num_points,
        len(full.targets),
        result.r,
        result.low,
        result.high,
        result.rho,
        tuple(name for name in matrix.names if name in left_out),
    )


def sign_rows(matrices: Mapping[str, ScoreMatrix], scratch: Iterable[str]) -> list[SignRow]:
    """Count the wins of each method over each earlier one, and of every method over scratch.

    Args:
        matrices: method -> scores, in the recipe's order.
        scratch: methods that train from random weights; they are used as baselines only.

    Returns:
        For each pair that shares at least MIN_MODELS architectures and a target with scores of
        both, a row of sums, then a row per target.
    """
    baselines = set(scratch)
    single = {method: one_per_architecture(matrix) for method, matrix in matrices.items()}
    ordered = sorted(single, key=lambda method: method not in baselines)
    rows: list[SignRow] = []
    for index, method in enumerate(ordered):
        for baseline in ordered[:index]:
            if method not in baselines:
                rows += _sign_rows(single[method], single[baseline])
    return rows


def _sign_rows(first: ScoreMatrix, second: ScoreMatrix) -> list[SignRow]:
    networks = [network for network in first.networks if network in second.networks]
    targets = [target for target in first.targets if target in second.targets]
    if len(networks) < MIN_MODELS or not targets:
        return []
    sides = [_scores_of(matrix, networks, targets) for matrix in (first, second)]
    rows = []
    for column, target in enumerate(targets):
        pairs = np.array([side[:, column] for side in sides])
        pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
        signs = sign_test(pairs[0], pairs[1])
        rows.append(
            SignRow(first.method, second.method, target, signs.wins, signs.ties, pairs.shape[1])
        )
    total = SignRow(
        first.method,
        second.method,
        ALL_TARGETS,
        sum(row.wins for row in rows),
        sum(row.ties for row in rows),
        sum(row.num_pairs for row in rows),
    )
    return [total, *rows] if total.num_pairs else []


def _scores_of(
    matrix: ScoreMatrix, networks: Sequence[str], targets: Sequence[str]
) -> summaries.Floats:
    rows = [matrix.networks.index(network) for network in networks]
    columns = [matrix.targets.index(target) for target in targets]
    scores: summaries.Floats = matrix.scores[np.ix_(rows, columns)]
    return scores
