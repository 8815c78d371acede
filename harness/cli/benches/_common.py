"""What the benchmarks share: contenders that take turns, medians, ratios within a round, and a record with the environment.

A ratio is the median over rounds of (ours / theirs) of the same round. Rounds of one contender differ by 1 to 5 % on a quiet
machine and by half on a busy one; neighbours in time differ less, so ratios hold where rates do not.
"""

import datetime
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from harness.system import environment
from harness.system.atomic_write import write_json
from writers.errors import UserError

ROOT = Path(__file__).resolve().parents[3]  # of a source checkout; `benchmarks/` lies there
MIN_ROUNDS, MIN_STEPS = 3, 3  # the least from which a median and its spread are worth recording

time_limit_option = click.option(
    "--time-limit",
    "time_limit_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Size the rounds by measured steps so that the benchmark ends within it. Default: none.",
)


@dataclass
class Measured:
    """One contender's rounds. `rates` are in `unit` per second; `details` is whatever else it reports of each round."""

    what: str
    unit: str = "images"
    rates: list[float] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    opened: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median."""
        return (max(self.rates) - min(self.rates)) / self.median


@dataclass(frozen=True)
class Goal:
    """What a ratio must reach, and what it aims at; None: it is only reported."""

    ours: str
    against: tuple[str, ...]  # the best of these in each round
    must: float | None = None
    aim: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Ratio:
    title: str
    ours: str
    against: tuple[str, ...]  # those that ran
    rounds: tuple[float, ...]
    must: float | None
    aim: float | None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def verdict(self) -> str:
        if self.must is None:
            return ""
        if self.aim is not None and self.median >= self.aim:
            return "aim reached"
        return "reached" if self.median >= self.must else "NOT REACHED"


@dataclass(frozen=True)
class RoundPlan:
    """How many rounds a benchmark takes, and how many steps of each contender a round has."""

    num_rounds: int
    num_steps: int


def plan_rounds(
    step_s: Mapping[str, float],
    overhead_s: Mapping[str, float],
    left_s: float,
    wanted: RoundPlan,
) -> RoundPlan:
    """The rounds that fit into `left_s` seconds: as wanted, or shorter ones, or fewer of them.

    Rounds get shorter down to MIN_STEPS steps before they get fewer. MIN_ROUNDS rounds of MIN_STEPS
    steps are the least that is planned, even if they do not fit; `take_turns` then stops at the deadline.

    Args:
        step_s: Measured seconds of one step of each contender.
        overhead_s: Measured seconds of each contender's round outside of its steps; absent means 0.
        left_s: Seconds until the deadline. A tenth of it is kept in reserve.
        wanted: The plan if there were no deadline.
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


def checkout_first() -> dict[str, str]:
    """Environment variables for a Python process that imports `benchmarks` from this checkout.

    The folders of this process's PYTHONPATH stay in it: packages may be installed there and nowhere else.
    """
    inherited = os.environ.get("PYTHONPATH", "")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited]))}


def deadline_in(time_limit_s: float | None) -> float | None:
    """`time.monotonic()` of the moment at which the time limit is over; None without one."""
    return None if time_limit_s is None else time.monotonic() + time_limit_s


def take_turns(
    contenders: Mapping[str, Callable[[], float]],
    num_rounds: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    on_round: Callable[[dict[str, list[float]]], None] | None = None,
    deadline: float | None = None,
) -> dict[str, list[float]]:
    """Rates of each contender over rounds. The order is turned round by one each round, so that none is always first.

    Args:
        on_round: Called after each complete round with the rates so far, for saving them.
        deadline: `time.monotonic()` at which to be done. Before a round that would end later, judging by
            the longest so far, the rounds end. The first round is taken in any case.
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


def ratios(measured: Mapping[str, Measured], goals: Sequence[Goal]) -> list[Ratio]:
    """For each goal whose sides both ran: ours over the best of the others, round by round.

    Where not all of the others ran, the ratio is named by those that did, and is only reported.
    """
    found = []
    for goal in goals:
        others = tuple(name for name in goal.against if name in measured)
        if goal.ours in measured and others:
            best = [
                max(rates) for rates in zip(*(measured[name].rates for name in others), strict=True)
            ]
            rounds = tuple(
                ours / theirs for ours, theirs in zip(measured[goal.ours].rates, best, strict=True)
            )
            names = f"{goal.ours} / {' or '.join(others)}"
            found.append(
                Ratio(goal.title or names, goal.ours, others, rounds, goal.must, goal.aim)
                if others == goal.against
                else Ratio(names, goal.ours, others, rounds, None, None)
            )
    return found


def record(
    name: str,
    work: Mapping[str, Any],
    measured: Mapping[str, Measured],
    found: Sequence[Ratio],
    *,
    device: str,
    absent: Mapping[str, str] | None = None,
    rounds_complete: int | None = None,
    rounds_planned: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """What `--json FILE` holds: the environment, every round and every ratio.

    `rounds_complete` is the number of rounds in it (None: those of the contenders), and `rounds_planned` the
    number that was planned (None: the same). Contenders without a round are left out.
    """
    from loaders.kernel import best_kernel

    measured = {key: one for key, one in measured.items() if one.rates}
    if rounds_complete is None:
        rounds_complete = min((len(one.rates) for one in measured.values()), default=0)
    return {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        "rounds_complete": rounds_complete,
        "rounds_planned": rounds_complete if rounds_planned is None else rounds_planned,
        "decoding_kernel": best_kernel(),
        "work": dict(work),
        "environment": environment.describe(device, environment.num_cores()),
        "contenders": {
            key: asdict(one) | {"median": one.median, "spread": one.spread}
            for key, one in measured.items()
        },
        "absent": dict(absent or {}),
        "ratios": [
            asdict(ratio) | {"median": ratio.median, "verdict": ratio.verdict} for ratio in found
        ],
        **more,
    }


def save(file: Path, content: dict[str, Any]) -> None:
    """Write the record. Raises UserError where that cannot be done."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}.") from error


def markdown(content: dict[str, Any]) -> str:
    """The record as two tables: rates, and ratios against their goals."""
    environment_ = content["environment"]
    packages = {key: value for key, value in environment_["packages"].items() if value}
    where = environment_.get("gpu") or environment_["cpu"]
    lines = [
        f"{where}, {environment_['num_cores']} cores; "
        + ", ".join(f"{key} {value}" for key, value in packages.items())
        + f"; {content['date']}",
        "",
        "| contender | median/s | rounds/s |",
        "|---|---|---|",
    ]
    for one in sorted(content["contenders"].values(), key=lambda one: -one["median"]):
        lines.append(
            f"| {one['what']} | {one['median']:,.0f} | {', '.join(f'{rate:,.0f}' for rate in one['rates'])} |"
        )
    lines += [f"| {name} | absent | {reason} |" for name, reason in content["absent"].items()]
    if content["ratios"]:
        lines += ["", "| ratio | median | rounds | must | aim | |", "|---|---|---|---|---|---|"]
    for ratio in content["ratios"]:
        goals = (f"{value:g}x" if value else "" for value in (ratio["must"], ratio["aim"]))
        lines.append(
            f"| {ratio['title']} | {ratio['median']:.2f}x | {', '.join(f'{r:.2f}' for r in ratio['rounds'])} | "
            f"{' | '.join(goals)} | {ratio['verdict']} |"
        )
    return "\n".join(lines) + "\n"


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content
