"""Where the time of a matrix's slots went: into the stages' own work, or into what the system adds to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.matrix.stage import Stage
from harness.runner.result import Result


@dataclass(frozen=True)
class Span:
    """A stage that has run, in seconds of one clock."""

    key: str
    needs: tuple[str, ...]
    begun: float  # its orders were written
    ended: float  # its result was written
    own_s: float  # its own work, without first use
    import_s: float
    first_use_s: float


def account(
    spans: Sequence[Span],
    num_slots: int,
    began: float,
    ended: float,
    beside: Sequence[tuple[float, float]] = (),
) -> dict[str, float]:
    """Slot-seconds of a run from `began` to `ended`: `own_work`, `no_stage_ready`, and the parts of the overhead.

    beside: (when, CPU seconds so far) of the processes that run no stage. While every slot is busy these are taken from the
    stages, where slots share out all cores.
    """
    first, last = min(span.begun for span in spans), max(span.ended for span in spans)
    ended_at = {span.key: span.ended for span in spans}
    ready_at = {
        span.key: max((ended_at[key] for key in span.needs if key in ended_at), default=first)
        for span in spans
    }
    changes: list[tuple[float, int, int]] = []  # when, running, ready
    for span in spans:
        ready = min(ready_at[span.key], span.begun)  # one clock tick may lie between two files
        changes += [(ready, 0, 1), (span.begun, 1, -1), (span.ended, -1, 0)]
    running = waiting = 0
    waited = idle = 0.0
    before = first
    for at, more_running, more_ready in sorted(changes):
        free = max(0, num_slots - running)
        waited += (at - before) * min(free, waiting)
        idle += (at - before) * max(0, free - waiting)
        running, waiting, before = running + more_running, waiting + more_ready, at
    taken = _while_all_are_busy(beside, spans, num_slots)
    occupied = sum(span.ended - span.begun for span in spans)
    inside = sum(span.own_s + span.first_use_s + span.import_s for span in spans)
    return {
        "own_work": sum(span.own_s for span in spans) - taken,
        "no_stage_ready": idle,
        "taken from stages": taken,
        "start of the command": num_slots * (first - began),
        "imports": sum(span.import_s for span in spans),
        "first use of compiled code": sum(span.first_use_s for span in spans),
        "start of workers, leases, results": occupied - inside,
        "ready stages waiting": waited,
        "report and exit": num_slots * (ended - last),
    }


def _while_all_are_busy(
    beside: Sequence[tuple[float, float]], spans: Sequence[Span], num_slots: int
) -> float:
    return sum(
        more - before
        for (since, before), (until, more) in pairwise(beside)
        if sum(span.begun <= since and until <= span.ended for span in spans) >= num_slots
    )


def likeness(stage: Stage) -> tuple[Any, ...]:
    return stage.kind, stage.axes.get("method"), bool(stage.axes.get("eps"))


def spans_of(results: Sequence[tuple[Stage, Result]], runs: Path) -> list[Span]:
    """First use: what a stage's start took longer than the shortest start of its kind and method, in a worker that is warm."""
    shortest: dict[Any, float] = {}
    for stage, one in results:
        startup_s = one.timing.get("startup_s", 0.0)
        shortest[likeness(stage)] = min(startup_s, shortest.get(likeness(stage), startup_s))
    spans = []
    for stage, one in results:
        folder = stage.folder(runs)
        first_use_s = one.timing.get("startup_s", 0.0) - shortest[likeness(stage)]
        spans.append(
            Span(
                stage.key,
                tuple(need.key for need in stage.needs.values()),
                (folder / "stage.json").stat().st_mtime,
                (folder / "result.json").stat().st_mtime,
                one.wall_s - first_use_s,
                one.import_s,
                first_use_s,
            )
        )
    return spans
