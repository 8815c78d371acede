"""Interleaved rounds: contenders (programs under test) take turns; a slow machine affects them all.

The rate of a contender varies between rounds by 1 to 5 % on an idle machine, and by 50 % on a busy
one. Within a round the machine changes less, so ratios of rates within a round are reliable even if
the rates are not.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from harness.cli.number_types import FloatType

# The fewest rounds and steps from which a median and its spread are worth recording.
MIN_ROUNDS, MIN_STEPS = 3, 3

time_limit_option = click.option(
    "--time-limit",
    "time_limit_s",
    type=FloatType(min=0, min_open=True),
    metavar="SECONDS",
    help="Longest duration of the benchmark, which chooses the number and length of rounds to fit. "
    "Default: no limit.",
)


@dataclass
class Measured:
    """The rounds of one contender.

    Attributes:
        what: Description for tables.
        unit: Unit of the counted work: images, MB, stages.
        rates: Units per second, one value per round.
        details: Further measurements of each round.
        opened: Measurements from opening or warming up the contender, before the first round.
    """

    what: str
    unit: str = "images"
    rates: list[float] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    opened: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median rate over rounds."""
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """Range of the rates relative to their median: (largest - smallest) / median."""
        return (max(self.rates) - min(self.rates)) / self.median


@dataclass(frozen=True)
class RoundPlan:
    """Number of rounds of a benchmark, and number of steps of each contender in a round."""

    num_rounds: int
    num_steps: int


def plan_rounds(
    step_s: Mapping[str, float],
    overhead_s: Mapping[str, float],
    left_s: float,
    wanted: RoundPlan,
) -> RoundPlan:
    """Plan rounds that fit into `left_s` seconds: as wanted, or else shorter, or else fewer.

    Rounds are shortened, but not below MIN_STEPS steps, before any is dropped. The plan has at
    least MIN_ROUNDS rounds of MIN_STEPS steps (fewer only if `wanted` has fewer), even if these do
    not fit; `take_turns` then stops at the deadline.

    Args:
        step_s: Measured seconds of one step of each contender.
        overhead_s: Measured seconds of each contender's round outside its steps; 0 if absent.
        left_s: Seconds until the deadline. A tenth of it is kept in reserve.
        wanted: The plan without a deadline.
    """
    min_steps = min(MIN_STEPS, wanted.num_steps)
    min_rounds = min(MIN_ROUNDS, wanted.num_rounds)
    usable_s = 0.9 * left_s
    steps_s, rounds_s = sum(step_s.values()), sum(overhead_s.values())
    fitting = int((usable_s / wanted.num_rounds - rounds_s) / max(steps_s, 1e-9))
    if fitting >= min_steps:
        return RoundPlan(wanted.num_rounds, min(fitting, wanted.num_steps))
    fitting = int(usable_s / max(rounds_s + min_steps * steps_s, 1e-9))
    return RoundPlan(min(max(fitting, min_rounds), wanted.num_rounds), min_steps)


def deadline_in(time_limit_s: float | None) -> float | None:
    """Return `time.monotonic()` at the end of the time limit, or None if there is no limit."""
    return None if time_limit_s is None else time.monotonic() + time_limit_s


def take_turns(
    contenders: Mapping[str, Callable[[], float]],
    num_rounds: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    on_round: Callable[[dict[str, list[float]]], None] | None = None,
    deadline: float | None = None,
) -> dict[str, list[float]]:
    """Run every contender once per round and return its rates.

    The order is rotated by one in each round, so that no contender is always first.

    Args:
        contenders: Name -> function that runs one round and returns its rate.
        num_rounds: Number of rounds without a deadline.
        progress: Called with the number of turns taken so far and the total number of turns.
        on_round: Called with the rates so far after each complete round, to save them.
        deadline: Value of `time.monotonic()` by which to finish. A round is not started if one as
            long as the longest so far would end later. The first round always runs.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    longest_s = 0.0
    for number in range(num_rounds):
        started = time.monotonic()
        if number and deadline is not None and started + longest_s > deadline:
            break
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            rates[name].append(contenders[name]())
            if progress is not None:
                progress(number * len(names) + turn + 1, num_rounds * len(names))
        longest_s = max(longest_s, time.monotonic() - started)
        if on_round is not None:
            on_round(rates)
    return rates
