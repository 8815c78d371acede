"""The points of a method's grid: which there are, what each trains with, and which train on under successive halving."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from harness.config.transfer import Halving, MethodSettings, Reduced, TransferSettings

Point = dict[str, float]  # axis -> value

AFTER_TRAINING = ("eval_crop",)  # axes that need no training of their own
WITH_LR = ("weight_decay", "decay_ratio")
ASSUMED_IMAGES = 10_000  # of a target, where its size is not known: to compare steps with epochs


@dataclass(frozen=True, eq=False)
class Trial:
    """One point to train, and the settings that it stands for."""

    number: int  # its place in the grid
    point: Point
    settings: TransferSettings  # optimizer.lr is the point's

    @property
    def lr(self) -> float:
        return self.settings.optimizer.lr


def trials(settings: TransferSettings) -> list[Trial]:
    """Every point that trains under the policy, in the order of the grid: the learning rate changes most seldom."""
    axes = {
        "lr": settings.rates,
        **{axis: values for axis, values in settings.grid.axes().items() if axis != "lr"},
    }
    for axis in AFTER_TRAINING:
        axes.pop(axis, None)
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    numbers = range(len(points))
    if isinstance(settings.policy, Reduced) and settings.policy.reduced < len(points):
        import numpy as np  # a plan of ten thousand stages is made without it

        from writers.random_streams import random_bits

        drawn = np.argsort(
            random_bits(settings.policy.seed, "grid", np.arange(len(points), dtype=np.uint64)),
            kind="stable",
        )
        numbers = sorted(drawn[: settings.policy.reduced].tolist())  # type: ignore[assignment]
    return [
        Trial(number, points[number], settings_of(settings, points[number])) for number in numbers
    ]


def crops(settings: MethodSettings) -> tuple[float, ...]:
    """Centre crops that each trained point is judged by."""
    return settings.grid.eval_crop or (settings.eval_crop,)


def feature_roles(settings: MethodSettings) -> list[str]:
    """For a method that works on features: the role of the stage that has them, for each of `crops`."""
    tried = settings.grid.eval_crop
    return [f"features_{crop:g}" for crop in tried] if tried else ["features"]


def num_configs(settings: TransferSettings) -> int:
    return len(trials(settings)) * len(crops(settings))


def settings_of(settings: TransferSettings, point: Point) -> TransferSettings:
    """The settings of one point: no grid left in them."""
    lr = point["lr"]
    optimizer: dict[str, float] = {"lr": lr}
    if "weight_decay" in point:
        optimizer["weight_decay"] = point["weight_decay"]
    if "decay_ratio" in point:
        optimizer["weight_decay"] = point["decay_ratio"] / lr
    own = {axis: value for axis, value in point.items() if axis not in ("lr", *WITH_LR)}
    return settings.model_copy(
        update={**own, "optimizer": settings.optimizer.model_copy(update=optimizer)}
    )


def shares(settings: TransferSettings) -> list[Fraction]:
    """Of the length of training, rung by rung; the last is all of it."""
    if not isinstance(settings.policy, Halving):
        return [Fraction(1)]
    factor, rungs = settings.policy.halving.factor, settings.policy.halving.rungs
    return [Fraction(1, factor ** (rungs - 1 - rung)) for rung in range(rungs)]


def num_promoted(settings: TransferSettings, num_alive: int) -> int:
    """How many of a rung train in the next one."""
    assert isinstance(settings.policy, Halving)
    return max(1, math.ceil(num_alive / settings.policy.halving.factor))


def passes(settings: TransferSettings) -> float:
    """About how many passes over a target's images the whole search takes."""
    alive = [_epochs(trial.settings) for trial in trials(settings)]
    total = 0.0
    for share in shares(settings):
        total += float(share) * sum(alive)
        if share < 1:
            alive = alive[: num_promoted(settings, len(alive))]
    return total + (max(alive) if settings.refit else 0.0)


def by_length(some: Sequence[Trial]) -> list[list[Trial]]:
    """Trials of equal length together, in their order."""
    found: dict[tuple[object, int], list[Trial]] = {}
    for trial in some:
        found.setdefault((trial.settings.steps, trial.settings.epochs), []).append(trial)
    return list(found.values())


def _epochs(settings: TransferSettings) -> float:
    if isinstance(settings.steps, int):
        return settings.steps * settings.batch_size / ASSUMED_IMAGES
    return float(settings.epochs)
