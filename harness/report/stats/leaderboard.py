"""A board: how well each model does on each target by one method, and what can be read off it: ranks, strengths, correlations.

The same board with cheap scores in place of accuracies says what those scores predict.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.report.data.rows import ScoreRow, Source, TransferRow, at_full_size, shown_eps
from harness.report.stats import elo
from harness.report.stats import hypothesis_tests as stats

FEWEST_MODELS = 4  # below that, a correlation over models says nothing
TOP = 5


@dataclass(frozen=True)
class Board:
    """M models on D targets. NaN: not measured, or not known."""

    method: str
    sources: tuple[Source, ...]
    names: tuple[str, ...]  # of the models
    targets: tuple[str, ...]
    scores: np.ndarray  # [M, D] of the targets' own metrics, means over seeds; fractions
    logits: np.ndarray  # [M, D] means over seeds of the logits
    source_accuracy: np.ndarray  # [M]
    rounds: tuple[np.ndarray, ...]  # [M] each: the scores of one target and seed

    @property
    def has_many_models(self) -> bool:
        """Whether there are FEWEST_MODELS that differ by more than their subset and eps, which are compared by themselves."""
        return (
            len({(model, arch, variant) for model, arch, _, variant, _ in self.sources})
            >= FEWEST_MODELS
        )

    def complete(self) -> "Board":
        """The part without gaps: the models that have as many targets as any, on the targets that all of those have."""
        there = ~np.isnan(self.scores)
        rows = np.flatnonzero(there.sum(axis=1) == there.sum(axis=1).max(initial=0))
        columns = np.flatnonzero(there[rows].all(axis=0))
        return Board(
            self.method,
            tuple(self.sources[row] for row in rows),
            tuple(self.names[row] for row in rows),
            tuple(self.targets[column] for column in columns),
            self.scores[np.ix_(rows, columns)],
            self.logits[np.ix_(rows, columns)],
            self.source_accuracy[rows],
            tuple(one[rows] for one in self.rounds),
        )


def model_names(rows: Iterable[TransferRow | ScoreRow]) -> dict[Source, str]:
    """What tells each model from the others of the report: its label, or what differs among arch, subset, variant and eps."""
    sources = list(dict.fromkeys(row.source for row in rows))
    varies = [len({source[place] for source in sources if not source[0]}) > 1 for place in range(5)]
    names = {}
    for source in sources:
        model, arch, subset, variant, eps = source
        parts = [arch, subset, variant or "plain", f"eps {shown_eps(eps)}"]
        shown = [part for part, differs in zip(parts, varies[1:], strict=True) if differs and part]
        names[source] = model or " ".join(shown) or arch
    return names


def boards(rows: Iterable[TransferRow], names: Mapping[Source, str]) -> dict[str, Board]:
    """Method -> its board, at the full size of the targets."""
    by_method: dict[str, list[TransferRow]] = {}
    for row in at_full_size(rows):
        if row.kind != "scratch":
            by_method.setdefault(row.method, []).append(row)
    return {method: _board(method, mine, names) for method, mine in by_method.items()}


def _board(method: str, rows: Sequence[TransferRow], names: Mapping[Source, str]) -> Board:
    sources = {
        source: place for place, source in enumerate(dict.fromkeys(row.source for row in rows))
    }
    targets = {
        target: place for place, target in enumerate(dict.fromkeys(row.target for row in rows))
    }
    sums = np.zeros((3, len(sources), len(targets)))
    known: dict[Source, list[float]] = {}
    rounds: dict[tuple[str, int], np.ndarray] = {}
    logits = stats.logit([row.score for row in rows], [row.num_images for row in rows])
    for row, logit in zip(rows, logits, strict=True):
        place = sources[row.source], targets[row.target]
        sums[:, place[0], place[1]] += row.score, logit, 1
        rounds.setdefault((row.target, row.seed), np.full(len(sources), math.nan))[place[0]] = (
            row.score
        )
        if row.source_accuracy is not None:
            known.setdefault(row.source, []).append(row.source_accuracy)
    counts = np.where(sums[2] > 0, sums[2], math.nan)
    accuracy = np.array(
        [np.mean(known[source]) if source in known else math.nan for source in sources]
    )
    return Board(
        method,
        tuple(sources),
        tuple(names[source] for source in sources),
        tuple(targets),
        sums[0] / counts,
        sums[1] / counts,
        accuracy,
        tuple(rounds.values()),
    )


@dataclass(frozen=True)
class Standing:
    """One model by one method: a row of the ranking."""

    method: str
    model: str
    source_accuracy: float | None
    num_targets: int  # of the average
    mean_logit: float
    standard_error: float | None  # over targets, without how hard they are (Morey)
    times_in_top: int
    elo: float
    elo_standard_error: (
        float | None
    )  # None: it won or lost every match, which bounds its strength on one side alone
    p_next: float | None  # sign test over targets of "no better than the next one below"
    num_rounds: int


def standings(board: Board) -> list[Standing]:
    """The models of a board, strongest first; empty where there are too few to be ranked."""
    if not board.has_many_models:
        return []
    rounds = [one for one in board.rounds if np.isfinite(one).sum() > 1]
    if not rounds:
        return []
    wins = elo.wins_of(rounds)
    strengths = elo.fit(wins)
    errors = np.where(
        (wins.sum(axis=0) > 0) & (wins.sum(axis=1) > 0),
        np.sqrt(np.diag(strengths.covariance)),
        math.nan,
    )
    full = board.complete()
    means = stats.dataset_adjusted(full.logits) if full.targets else None
    place = {name: index for index, name in enumerate(full.names if full.targets else ())}
    top = stats.times_in_top(TOP, board.scores)
    found = []
    order = np.argsort(-strengths.strengths, kind="stable").tolist()
    for index, below in zip(order, [*order[1:], None], strict=True):
        at = place.get(board.names[index])
        found.append(
            Standing(
                board.method,
                board.names[index],
                _known(board.source_accuracy[index]),
                int(np.isfinite(board.scores[index]).sum()) if at is None else len(full.targets),
                float(np.nanmean(board.logits[index]))
                if at is None or means is None
                else float(means.mean[at]),
                None if at is None or means is None else _known(means.standard_error[at]),
                int(top[index]),
                float(strengths.strengths[index]),
                _known(errors[index]),
                None if below is None else _p_better(board.scores[index], board.scores[below]),
                sum(bool(np.isfinite(one[index])) for one in rounds),
            )
        )
    return found


@dataclass(frozen=True)
class Association:
    """How transfer by one method goes with accuracy on the source, over models: logits on both sides."""

    method: str
    num_models: int
    num_targets: int
    r: float
    low_95: float
    high_95: float
    rho: float


def association(board: Board) -> Association | None:
    """None where there are too few models whose source accuracy is known, or where nothing varies."""
    full = board.complete()
    known = np.isfinite(full.source_accuracy)
    if not board.has_many_models or known.sum() < FEWEST_MODELS or not full.targets:
        return None
    found = stats.correlation(
        stats.logit(full.source_accuracy[known], 50_000), full.logits[known].mean(axis=1)
    )
    if math.isnan(found.r):
        return None
    return Association(
        board.method, found.num_points, len(full.targets), found.r, found.low, found.high, found.rho
    )


def _p_better(scores: np.ndarray, other_scores: np.ndarray) -> float | None:
    """Two-sided p of the sign test over the targets [D] that both have; 1 where the first did not win more of them."""
    both = np.isfinite(scores) & np.isfinite(other_scores)
    signs = stats.sign_table(scores[both], other_scores[both])
    return (signs.p if signs.wins > signs.losses else 1.0) if both.any() else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
