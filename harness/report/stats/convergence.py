"""Compute the training steps that a method needs for most of its final accuracy.

This is the smallest number of steps at which the odds of a correct answer, p / (1 - p), reach a
fraction of the odds at the largest number of steps (Kornblith, Shlens and Le 2019, figure on
convergence). Between two measured numbers of steps, the log-odds are a straight line over
log(steps).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.report.data.records import ModelId, TransferRow

FRACTION = 0.9  # fraction of the final odds that must be reached
MIN_POINTS = 2


@dataclass(frozen=True)
class Convergence:
    """Steps of one method, on one target and model, to FRACTION of the final odds.

    Attributes:
        per_class: training images of each class; None means all.
        num_points: number of different training lengths that were measured.
        num_steps: the largest number of steps that was measured.
        final_score: the target's metric at num_steps, as a fraction: mean over the seeds that were
            measured with every training length.
        steps: number of steps that reach the odds. None if the smallest measured number already
            reaches them; `at_most` is then this number.
        at_most: the smallest measured number of steps if it reaches the odds, otherwise None.
    """

    model: str
    method: str
    is_scratch: bool
    network: str
    target: str
    per_class: int | None
    num_points: int
    num_steps: int
    final_score: float
    steps: float | None
    at_most: int | None

    @property
    def bound(self) -> float:
        """Number of steps, or its upper bound if only that is known."""
        return self.steps if self.steps is not None else float(self.at_most or 0)


@dataclass(frozen=True)
class Speedup:
    """Steps of a baseline divided by those of a method, over the targets that both have.

    Attributes:
        ratio: geometric mean over pairs of a curve of the method and one of the baseline, which
            have the same network, target and number of training images per class.
        num_bounds: number of these pairs with only a bound for the method, the baseline or both.
    """

    method: str
    baseline: str
    ratio: float
    num_targets: int
    num_bounds: int


def convergences(rows: Iterable[TransferRow], names: Mapping[ModelId, str]) -> list[Convergence]:
    """Compute the steps of every method that was trained for several numbers of steps.

    Only seeds that have all of these numbers of steps are used.
    """
    curves: dict[tuple[ModelId, str, str, int | None], dict[int, list[TransferRow]]] = {}
    for row in rows:
        if row.steps is not None:
            place = row.model_id, row.method, row.target, row.per_class
            curves.setdefault(place, {}).setdefault(row.steps, []).append(row)
    found = []
    for (model, method, target, per_class), curve in curves.items():
        if len(curve) < MIN_POINTS:
            continue
        steps = sorted(curve)
        seeds = set.intersection(*({row.seed for row in runs} for runs in curve.values()))
        shared = [[row for row in curve[size] if row.seed in seeds] for size in steps]
        if not seeds:
            continue
        logits = [sum(row.logit for row in runs) / len(runs) for runs in shared]
        reached = steps_to_fraction(steps, logits)
        final = shared[-1]
        found.append(
            Convergence(
                names[model],
                method,
                final[0].is_scratch,
                final[0].network or names[model],
                target,
                per_class,
                len(steps),
                steps[-1],
                sum(row.score for row in final) / len(final),
                reached,
                steps[0] if reached is None else None,
            )
        )
    return found


def steps_to_fraction(
    steps: Sequence[int], logits: Sequence[float], fraction: float = FRACTION
) -> float | None:
    """Interpolate the first number of steps with the given fraction of the final odds.

    Args:
        steps: increasing numbers [N].
        logits: log-odds [N] at these numbers.
        fraction: fraction of the odds at the last number.

    Returns:
        The number of steps; None if the first one in `steps` already has these odds.
    """
    goal = logits[-1] + math.log(fraction)
    if logits[0] >= goal:
        return None
    upper = next(index for index, value in enumerate(logits) if value >= goal)
    lower = upper - 1
    part = (goal - logits[lower]) / (logits[upper] - logits[lower])
    low, high = math.log(steps[lower]), math.log(steps[upper])
    return math.exp(low + part * (high - low))


def speedups(found: Sequence[Convergence]) -> list[Speedup]:
    """Compare each method with each method that trains from random weights."""
    by_method: dict[str, list[Convergence]] = {}
    for row in found:
        by_method.setdefault(row.method, []).append(row)
    results = []
    for method, rows in by_method.items():
        for baseline, others in by_method.items():
            if rows[0].is_scratch or not others[0].is_scratch:
                continue
            pairs = [
                (own, other)
                for own in rows
                for other in others
                if (own.network, own.target, own.per_class)
                == (other.network, other.target, other.per_class)
            ]
            if not pairs:
                continue
            logs = [math.log(other.bound / own.bound) for own, other in pairs]
            results.append(
                Speedup(
                    method,
                    baseline,
                    math.exp(sum(logs) / len(logs)),
                    len({own.target for own, _ in pairs}),
                    sum(own.steps is None or other.steps is None for own, other in pairs),
                )
            )
    return results
