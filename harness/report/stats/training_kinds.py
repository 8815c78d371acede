"""Compare a recipe's `models` by the kind of their training, such as self-supervised."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.config.training_kind import TRAINING_KINDS
from harness.report.data.records import ModelId, TransferRow
from harness.report.stats.intervals import Interval, welch
from harness.report.stats.leaderboard import ScoreMatrix

REFERENCE = "supervised"


@dataclass(frozen=True)
class TrainingGroup:
    """Models of one kind of training, transferred by one method. Intervals are over models.

    A logit is that of a test accuracy.

    Attributes:
        num_models: models with a score on every target of the comparison.
        mean_logit: mean over models and targets.
        best: name of the model with the highest mean over targets.
        best_logit: mean logit of the model `best` over targets.
        difference: mean logit minus the mean logit of supervised models, with Welch's 95 %
            interval. None for supervised models, and if `welch` gives no interval.
        num_networks: architectures that this group and supervised models share; 0 for supervised
            models.
        within_networks: mean over these architectures of the difference in logits. Unlike
            `difference`, it compares equal architectures. None without a shared architecture.
    """

    method: str
    training: str
    num_models: int
    num_targets: int
    mean_logit: float
    best: str
    best_logit: float
    difference: Interval | None
    num_networks: int
    within_networks: float | None


def training_groups(
    matrices: Mapping[str, ScoreMatrix], rows: Iterable[TransferRow]
) -> list[TrainingGroup]:
    """Group the models of each method. A method whose models are all of one kind has no groups.

    Args:
        matrices: method -> scores of all models on all targets.
        rows: test scores, which name the kind of training of each model.
    """
    training_of = {row.model_id: row.training for row in rows}
    return [
        group
        for method, matrix in matrices.items()
        for group in _groups_of(method, matrix.complete(), training_of)
    ]


def _groups_of(
    method: str, matrix: ScoreMatrix, training_of: Mapping[ModelId, str]
) -> list[TrainingGroup]:
    kinds = np.array([training_of.get(model, "") for model in matrix.model_ids])
    present = [kind for kind in TRAINING_KINDS if (kinds == kind).any()]
    if len(present) < 2:
        return []
    means = matrix.logits.mean(axis=1)
    networks, names = np.array(matrix.networks), np.array(matrix.names)
    is_reference = kinds == REFERENCE
    groups = []
    for kind in present:
        is_own = kinds == kind
        own = means[is_own]
        difference, within = None, []
        if kind != REFERENCE:
            difference = welch(own, means[is_reference])
            within = [
                means[is_own & (networks == network)].mean()
                - means[is_reference & (networks == network)].mean()
                for network in np.intersect1d(networks[is_own], networks[is_reference])
            ]
        groups.append(
            TrainingGroup(
                method,
                kind,
                len(own),
                len(matrix.targets),
                float(own.mean()),
                str(names[is_own][own.argmax()]),
                float(own.max()),
                difference,
                len(within),
                float(np.mean(within)) if within else None,
            )
        )
    return groups
