"""Points of a method's grid of hyper-parameters, and how many survive each rung of halving."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from harness.config.transfer import Halving, MethodSettings, Reduced, TransferSettings

Point = dict[str, float | str]  # axis -> value

AFTER_TRAINING = ("eval_crop",)  # axes whose values are compared on one trained model
WITH_LR = ("weight_decay", "decay_ratio")  # axes that set the optimizer's weight decay
ASSUMED_IMAGES = 10_000  # assumed size of a target, to convert steps to epochs


@dataclass(frozen=True, eq=False)
class Trial:
    """One point of the grid (combination of values) to train.

    Attributes:
        number: index in the grid.
        point: axis -> value.
        settings: settings with the point's values; `optimizer.lr` is its learning rate.
    """

    number: int
    point: Point
    settings: TransferSettings

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        return self.settings.optimizer.lr


def trials(settings: TransferSettings) -> list[Trial]:
    """List the points that `settings.policy` trains (in the first rung), in the order of the grid.

    In this order the learning rate changes slowest.
    """
    axes = {
        "lr": settings.rates,
        **{axis: values for axis, values in settings.grid.axes().items() if axis != "lr"},
    }
    for axis in AFTER_TRAINING:
        axes.pop(axis, None)
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    numbers = range(len(points))
    if isinstance(settings.policy, Reduced) and settings.policy.reduced < len(points):
        import numpy as np  # imported here, because other plans do not need it

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
    """Center crops that each trained point is evaluated with."""
    return settings.grid.eval_crop or (settings.eval_crop,)


def feature_roles(settings: MethodSettings) -> list[str]:
    """Roles in which a method on features needs stages that extract them: one per center crop."""
    axis = settings.grid.eval_crop
    return [f"features_{crop:g}" for crop in axis] if axis else ["features"]


def num_configs(settings: TransferSettings) -> int:
    """Number of configurations of which the best on val is chosen."""
    return len(trials(settings)) * len(crops(settings))


def settings_of(settings: TransferSettings, point: Point) -> TransferSettings:
    """Return the settings with the values of one point."""
    lr = float(point["lr"])
    optimizer = {"lr": lr}
    if "weight_decay" in point:
        optimizer["weight_decay"] = float(point["weight_decay"])
    if "decay_ratio" in point:
        optimizer["weight_decay"] = float(point["decay_ratio"]) / lr
    own = {axis: value for axis, value in point.items() if axis not in ("lr", *WITH_LR)}
    return settings.model_copy(
        update={**own, "optimizer": settings.optimizer.model_copy(update=optimizer)}
    )


def shares(settings: TransferSettings) -> list[Fraction]:
    """Fractions of the full training length, one per rung of halving; the last is 1."""
    if not isinstance(settings.policy, Halving):
        return [Fraction(1)]
    factor, rungs = settings.policy.halving.factor, settings.policy.halving.rungs
    return [Fraction(1, factor ** (rungs - 1 - rung)) for rung in range(rungs)]


def num_promoted(settings: TransferSettings, num_survivors: int) -> int:
    """Number of points that are trained in the next rung, if this rung has `num_survivors`."""
    assert isinstance(settings.policy, Halving)
    return max(1, math.ceil(num_survivors / settings.policy.halving.factor))


def passes(settings: TransferSettings) -> float:
    """Approximate number of passes over a target's images in the whole search."""
    survivors = [_epochs(trial.settings) for trial in trials(settings)]
    total = 0.0
    for share in shares(settings):
        total += float(share) * sum(survivors)
        if share < 1:
            survivors = survivors[: num_promoted(settings, len(survivors))]
    return total + (max(survivors) if settings.refit else 0.0)


def by_length(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Group trials with equal training length; keeps their order."""
    groups: dict[tuple[object, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.settings.steps, trial.settings.epochs), []).append(trial)
    return list(groups.values())


def _epochs(settings: TransferSettings) -> float:
    if isinstance(settings.steps, int):
        return settings.steps * settings.batch_size / ASSUMED_IMAGES
    return float(settings.epochs)
