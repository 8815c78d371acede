"""Estimate the remaining time of a run from the stages that it has finished so far.

The seconds per unit of work of a stage are those of finished stages that are as similar as
possible: equal model, data and method; equal kind and network; equal kind; any. The unit is one
forward pass of one image at 224 pixels, so that a training predicts its transfers and evaluations.
Stages of earlier runs count as long as this run has not finished a similar one. Imports no torch.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.estimate.estimate import cost_key, expected_runs, measured_rates
from harness.estimate.workload import Workloads
from harness.matrix.stage import Stage
from harness.matrix.workload import Workload

TRAINING_PASSES = 3.0  # forward passes in a training step
ATTACK_PASSES = 2.0  # in a step of an attack: no gradient of the weights
UNIT_RESOLUTION = 224
MIN_FRACTION = 0.1  # of a running stage, before its own progress predicts its end
MIN_ELAPSED_S = 1.0
MIN_SECONDS, MIN_WORK = 1e-3, 1e-9  # for logarithms


@dataclass(frozen=True)
class Running:
    """A stage that runs.

    Attributes:
        elapsed_s: seconds since its start.
        fraction: done so far, in [0, 1]; 0 if unknown.
    """

    stage: Stage
    elapsed_s: float
    fraction: float

    @property
    def is_predictable(self) -> bool:
        """True if the progress predicts the end."""
        return self.fraction >= MIN_FRACTION and self.elapsed_s >= MIN_ELAPSED_S


class RemainingTime:
    """Rates of the stages of one run."""

    def __init__(self, pending: Mapping[str, Stage], runs: Path) -> None:
        """Compute the work of the stages.

        Args:
            pending: stages of the run by key.
            runs: folder of stages.
        """
        workloads = Workloads(runs)
        self._earlier = measured_rates(dict(pending), runs)
        self._work: dict[str, float] = {}
        self._kinship: dict[str, tuple[Hashable, ...]] = {}
        for key, stage in pending.items():
            parts = workloads.of(stage)
            self._work[key] = (
                sum(map(_forward_passes, parts)) if parts else stage.spec.work(stage.config)
            )
            self._kinship[key] = _kinship(stage, has_steps=bool(parts))
        self._rates: dict[Hashable, _Rates] = {}

    def add(self, stage: Stage, wall_s: float) -> None:
        """Count a finished stage of the run that took `wall_s` seconds."""
        work = self._work[stage.key]
        for key in self._kinship[stage.key]:
            self._rates[key] = self._rates.get(key, NO_RATES).with_stage(wall_s, work)

    def seconds(
        self, waiting: Iterable[Stage], running: Iterable[Running], num_slots: int
    ) -> float | None:
        """Estimate the seconds until the last stage ends.

        Args:
            waiting: stages that have not started.
            running: stages that run.
            num_slots: number of stages that run at the same time.

        Returns:
            None if the time of most of the stages is unknown.
        """
        running = list(running)
        evidence = self._with(running)
        left, num_unknown = [], 0
        for one in running:
            if one.is_predictable:
                left.append(one.elapsed_s * (1 - one.fraction) / one.fraction)
            elif (expected := self._expected(one.stage, evidence)) is not None:
                left.append(max(0.0, expected - one.elapsed_s))
            else:
                num_unknown += 1
        for stage in waiting:
            if (expected := self._expected(stage, evidence)) is None:
                num_unknown += 1
            else:
                left.append(expected * expected_runs(stage))
        if not left and not num_unknown:
            return 0.0
        if num_unknown > len(left):
            return None
        return max(sum(left) / max(1, min(num_slots, len(left))), max(left))

    def _with(self, running: Iterable[Running]) -> dict[Hashable, "_Rates"]:
        """Rates by key; the progress of running stages counts, too."""
        rates = dict(self._rates)
        for one in running:
            if one.is_predictable:
                work = self._work[one.stage.key] * one.fraction
                for key in self._kinship[one.stage.key]:
                    rates[key] = rates.get(key, NO_RATES).with_stage(one.elapsed_s, work)
        return rates

    def _expected(self, stage: Stage, rates: Mapping[Hashable, "_Rates"]) -> float | None:
        """Seconds that a stage takes; None if nothing similar is known."""
        exact, *similar = self._kinship[stage.key]
        earlier = self._earlier.get(cost_key(stage))
        if exact not in rates and earlier is not None:
            return earlier * stage.spec.work(stage.config)
        rate = None
        for key in (*reversed(similar), exact):
            if key in rates:
                rate = rates[key].near(rate)
        return None if rate is None else rate * self._work[stage.key]


@dataclass(frozen=True)
class _Rates:
    """Rates of similar stages, in seconds per unit of work."""

    num_stages: int = 0
    seconds: float = 0.0
    work: float = 0.0
    sum_log: float = 0.0

    def with_stage(self, seconds: float, work: float) -> "_Rates":
        return _Rates(
            self.num_stages + 1,
            self.seconds + seconds,
            self.work + work,
            self.sum_log + math.log(max(seconds, MIN_SECONDS) / max(work, MIN_WORK)),
        )

    def near(self, wider: float | None) -> float:
        """Geometric mean of these rates and of that of less similar stages.

        The latter counts as one stage, so that one exceptional stage does not decide. Without it,
        the rate is that of all stages together.
        """
        if wider is None:
            return self.seconds / max(self.work, MIN_WORK)
        return math.exp((self.sum_log + math.log(max(wider, MIN_WORK))) / (self.num_stages + 1))


NO_RATES = _Rates()


def _kinship(stage: Stage, *, has_steps: bool) -> tuple[Hashable, ...]:
    """What the stage has in common with others, the most specific first.

    Args:
        stage: the stage.
        has_steps: its work is in forward passes, so that it compares with other kinds.
    """
    # A stage that copies from another one, such as the beton of a subset, takes less time.
    copies = bool(stage.needs)
    network = stage.axes.get("arch"), stage.axes.get("model")
    keys: list[Hashable] = [(*cost_key(stage), copies), (stage.kind, *network, copies)]
    if has_steps:
        keys += [(stage.kind, copies), ()]
    return tuple(keys)


def _forward_passes(workload: Workload) -> float:
    """Forward passes of images at 224 pixels."""
    step = workload.step
    settings: dict[str, Any] = step.get("settings") or {}
    attack = step.get("attack") or (settings.get("attack") if step.get("attacked") else None) or {}
    resolution = step.get("resolution") or settings.get("resolution") or UNIT_RESOLUTION
    passes = ATTACK_PASSES * float(attack.get("steps") or 0)
    if step["step"] in ("pretrain", "transfer"):
        passes += TRAINING_PASSES
    return workload.num_images * max(1.0, passes) * (resolution / UNIT_RESOLUTION) ** 2
