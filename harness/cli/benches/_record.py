"""The record of a benchmark: environment, every round, and ratios against their goals."""

import datetime
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.cli.benches._rounds import Measured
from harness.system import environment
from harness.system.atomic_write import write_json
from writers.errors import UserError


@dataclass(frozen=True)
class Goal:
    """A ratio to report, and the value that it has to reach.

    Attributes:
        ours: Contender in the numerator.
        against: Contenders in the denominator; each round is compared with the best of them.
        must: Smallest acceptable ratio; None if the ratio is only reported.
        aim: Desired ratio; None if there is none beyond `must`.
        title: Description for tables; if it is empty, tables show the names of both sides.
    """

    ours: str
    against: tuple[str, ...]
    must: float | None = None
    aim: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Ratio:
    """A measured ratio: the median over rounds of (ours / best of the others) within a round.

    Attributes:
        title: Description for tables.
        ours: Contender in the numerator.
        against: Contenders in the denominator that ran.
        rounds: The ratio in each round.
        must: As in Goal.
        aim: As in Goal.
    """

    title: str
    ours: str
    against: tuple[str, ...]
    rounds: tuple[float, ...]
    must: float | None
    aim: float | None

    @property
    def median(self) -> float:
        """Median over rounds."""
        return statistics.median(self.rounds)

    @property
    def verdict(self) -> str:
        """`aim reached`, `reached` or `NOT REACHED`; empty if the ratio is only reported."""
        if self.must is None:
            return ""
        if self.aim is not None and self.median >= self.aim:
            return "aim reached"
        return "reached" if self.median >= self.must else "NOT REACHED"


def compute_ratios(measured: Mapping[str, Measured], goals: Sequence[Goal]) -> list[Ratio]:
    """Compute the ratio of each goal if `ours` and at least one contender in `against` ran.

    If only some contenders in `against` ran, the title names these, and the ratio is only reported:
    it has no verdict.
    """
    results = []
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
            results.append(
                Ratio(goal.title or names, goal.ours, others, rounds, goal.must, goal.aim)
                if others == goal.against
                else Ratio(names, goal.ours, others, rounds, None, None)
            )
    return results


def make_record(
    name: str,
    work: Mapping[str, Any],
    measured: Mapping[str, Measured],
    ratios: Sequence[Ratio],
    *,
    device: str,
    absent: Mapping[str, str] | None = None,
    rounds_complete: int | None = None,
    rounds_planned: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Build the content of `--json FILE`: the environment, every round and every ratio.

    Args:
        name: Name of the benchmark.
        work: Settings of the work that every contender does.
        measured: Contenders; those without a round are left out.
        ratios: Measured ratios.
        device: Device of the work, such as cpu or cuda:0.
        absent: Contender -> why it did not run.
        rounds_complete: Number of complete rounds. None means the rounds of the contenders are
            counted.
        rounds_planned: Number of planned rounds; None if all planned rounds are complete.
        more: Further fields.
    """
    from loaders.kernel import best_kernel

    measured = {key: contender for key, contender in measured.items() if contender.rates}
    if rounds_complete is None:
        rounds_complete = min((len(contender.rates) for contender in measured.values()), default=0)
    return {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        "rounds_complete": rounds_complete,
        "rounds_planned": rounds_complete if rounds_planned is None else rounds_planned,
        "decoding_kernel": best_kernel(),
        "work": dict(work),
        "environment": environment.describe(device, environment.num_cores()),
        "contenders": {
            key: asdict(contender) | {"median": contender.median, "spread": contender.spread}
            for key, contender in measured.items()
        },
        "absent": dict(absent or {}),
        "ratios": [
            asdict(ratio) | {"median": ratio.median, "verdict": ratio.verdict} for ratio in ratios
        ],
        **more,
    }


def save(file: Path, record: dict[str, Any]) -> None:
    """Write the record as JSON. Raises UserError if the file cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, record)
    except OSError as error:
        raise UserError(
            f"{file} cannot be written: {error.strerror or error}.",
            "Name another file with --json.",
        ) from error


def markdown(record: dict[str, Any]) -> str:
    """Format the record as two tables: rates, and ratios against their goals."""
    env = record["environment"]
    packages = {key: value for key, value in env["packages"].items() if value}
    lines = [
        f"{env.get('gpu') or env['cpu']}, {env['num_cores']} cores; "
        + ", ".join(f"{key} {value}" for key, value in packages.items())
        + f"; {record['date']}",
        "",
        "| contender | median/s | rounds/s |",
        "|---|---|---|",
    ]
    for contender in sorted(record["contenders"].values(), key=lambda row: -row["median"]):
        rates = ", ".join(f"{rate:,.0f}" for rate in contender["rates"])
        lines.append(f"| {contender['what']} | {contender['median']:,.0f} | {rates} |")
    lines += [f"| {name} | absent | {reason} |" for name, reason in record["absent"].items()]
    has_goals = any(ratio["must"] for ratio in record["ratios"])
    if record["ratios"]:
        goals = " must | aim | |" if has_goals else ""
        lines += [
            "",
            f"| ratio | median | rounds |{goals}",
            "|---|---|---|" + has_goals * "---|---|---|",
        ]
    for ratio in record["ratios"]:
        rounds = ", ".join(f"{value:.2f}" for value in ratio["rounds"])
        line = f"| {ratio['title']} | {ratio['median']:.2f}x | {rounds} |"
        if has_goals:
            limits = (f"{value:g}x" if value else "" for value in (ratio["must"], ratio["aim"]))
            line += f" {' | '.join(limits)} | {ratio['verdict']} |"
        lines.append(line)
    return "\n".join(lines) + "\n"
