"""Split the time of a run's slots into the stages' own work, idle time and overhead.

A slot is a place for one running stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.matrix.stage import FILE_NAME, Stage
from harness.runner import result
from harness.runner.result import Result


@dataclass(frozen=True)
class Span:
    """Times of a finished stage, in seconds of one clock.

    Attributes:
        key: the stage's key.
        needs: keys of the stages that it needs.
        begun: time at which its stage.json was written.
        ended: time at which its result was written.
        own_s: time of its work (`Result.wall_s`), without the first use of compiled code.
        import_s: time to import its code.
        first_use_s: time of the first use of compiled code.
    """

    key: str
    needs: tuple[str, ...]
    begun: float
    ended: float
    own_s: float
    import_s: float
    first_use_s: float


def account(
    spans: Sequence[Span],
    num_slots: int,
    began: float,
    ended: float,
    other_cpu: Sequence[tuple[float, float]] = (),
) -> dict[str, float]:
    """Split the slot-seconds of a run into own work, idle time and overhead.

    Args:
        spans: finished stages.
        num_slots: number of stages that can run at the same time.
        began: start of the run, on the clock of the spans.
        ended: end of the run, on the same clock.
        other_cpu: samples (time, CPU seconds so far) of the processes that run no stage. While
            every slot is busy, this CPU time counts as overhead, because the stages lose it.

    Returns:
        Slot-seconds: `own_work`, `no_stage_ready`, and one entry per part of the overhead.
    """
    first, last = min(span.begun for span in spans), max(span.ended for span in spans)
    ended_at = {span.key: span.ended for span in spans}
    ready_at = {
        span.key: max((ended_at[key] for key in span.needs if key in ended_at), default=first)
        for span in spans
    }
    changes: list[tuple[float, int, int]] = []  # time, change of running, change of ready
    for span in spans:
        ready = min(ready_at[span.key], span.begun)  # file times are exact only to a clock tick
        changes += [(ready, 0, 1), (span.begun, 1, -1), (span.ended, -1, 0)]
    running = waiting = 0
    waited = idle = 0.0
    before = first
    for at, more_running, more_ready in sorted(changes):
        free = max(0, num_slots - running)
        waited += (at - before) * min(free, waiting)
        idle += (at - before) * max(0, free - waiting)
        running, waiting, before = running + more_running, waiting + more_ready, at
    taken = _while_all_are_busy(other_cpu, spans, num_slots)
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
    other_cpu: Sequence[tuple[float, float]], spans: Sequence[Span], num_slots: int
) -> float:
    return sum(
        more - before
        for (since, before), (until, more) in pairwise(other_cpu)
        if sum(span.begun <= since and until <= span.ended for span in spans) >= num_slots
    )


def startup_key(stage: Stage) -> tuple[Any, ...]:
    """Return a key of the code that a stage uses, which its worker may have compiled before."""
    return stage.kind, stage.axes.get("method"), bool(stage.axes.get("eps"))


def spans_of(results: Sequence[tuple[Stage, Result]], runs: Path) -> list[Span]:
    """Read the span of each finished stage from the times of its files and from its result.

    `first_use_s` is the stage's `startup_s` minus the smallest `startup_s` of the stages with an
    equal `startup_key`. The stage with the smallest one is assumed to have used code that its
    worker had compiled before.
    """
    shortest: dict[Any, float] = {}
    for stage, record in results:
        startup_s = record.timing.get("startup_s", 0.0)
        key = startup_key(stage)
        shortest[key] = min(startup_s, shortest.get(key, startup_s))
    spans = []
    for stage, record in results:
        folder = stage.folder(runs)
        first_use_s = record.timing.get("startup_s", 0.0) - shortest[startup_key(stage)]
        spans.append(
            Span(
                stage.key,
                tuple(need.key for need in stage.needs.values()),
                (folder / FILE_NAME).stat().st_mtime,
                (folder / result.FILE_NAME).stat().st_mtime,
                record.wall_s - first_use_s,
                record.import_s,
                first_use_s,
            )
        )
    return spans
