"""Progress of `harness run`: a live table on a terminal, otherwise a line per finished stage."""

import json
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.cli.console import bar, seconds
from harness.estimate.smoothed import Smoothed
from harness.matrix.stage import Stage
from harness.runner import queue_state, retry
from harness.runner.executor import Event, Run
from harness.runner.launchers.local import LocalLauncher
from harness.system import environment
from writers.text_names import counted, printable

if TYPE_CHECKING:
    from harness.estimate.remaining import RemainingTime

MIN_LEFT_S = 1.0  # a shorter remaining time is not shown: what still runs takes longer
STILL_RUNNING_EVERY_S = 60.0
REFRESH_EVERY_S = 0.25
ESTIMATE_EVERY_S = 2.0


def follow(run: Run, console: Console) -> None:
    """Drive the run to its end and show its progress."""
    events = run.events()
    if console.is_terminal:
        _live(run, events, console)
    else:
        _plain(run, events, console)


def event_line(event: Event, num_finished: int, num_stages: int) -> str:
    """Format an event: [12/41] transfer synthetic_patterns full all eps0.5 seed0   8.1 s."""
    assert event.stage is not None
    outcome = {
        "done": seconds(event.wall_s),
        "failed": f"FAILED: {printable(event.message)}",
        "retry": f"will be retried: {printable(event.message)}",
    }[event.what]
    return f"[{num_finished}/{num_stages}] {event.stage.name.replace('/', ' ')}   {outcome}"


def progress_of(folder: Path) -> dict[str, Any]:
    """Read the progress that a running stage last wrote; empty if none can be read.

    `eta_s` is reduced by the time since then. While the stage's job waits in a cluster's queue, the
    progress is a note with the reason.
    """
    if reason := queue_state.read(folder):
        return {"note": reason}
    file = folder / "progress.json"
    try:
        progress, written_at = json.loads(file.read_text()), file.stat().st_mtime
    except (OSError, ValueError):
        return {}
    if not isinstance(progress, dict):
        return {}
    if isinstance(eta_s := progress.get("eta_s"), int | float):
        progress["eta_s"] = eta_s - max(0.0, time.time() - written_at)
    return progress | {"note": printable(str(progress.get("note") or ""))}


def describe_progress(progress: dict[str, Any]) -> str:
    """Format progress: 5/24, 1,204 images/s, note. A complete count is not shown."""
    parts, rate = [], progress.get("img_per_s")
    if count := _count(progress):
        parts.append("{:,}/{:,}".format(*count))
    if isinstance(rate, int | float):
        parts.append(f"{rate:,.0f} images/s")
    if progress.get("note"):
        parts.append(str(progress["note"]))
    return ", ".join(parts)


def running_table(running: Iterable[tuple[Stage, float | None]], runs: Path) -> Table:
    """Build a table with progress, rate, remaining time and retries of each running stage.

    Progress and remaining time are those of the part that the stage's note names, such as its
    training. What follows the part is not included.

    Args:
        running: Stages with the seconds since their start, None if unknown.
        runs: Folder of stages.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("running", overflow="fold", ratio=1)
    for column in ("part done", "img/s", "for", "part left", "retries"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage, for_s in running:
        folder = stage.folder(runs)
        progress = progress_of(folder)
        note = f"  {progress['note']}" if progress.get("note") else ""
        table.add_row(
            Text.assemble(stage.name, (note, "dim")),
            *_fraction_and_rate(progress),
            seconds(for_s) if for_s is not None else "",
            _left(progress.get("eta_s")),
            ", ".join(
                f"{number} {cause.replace('_', ' ')}"
                for cause, number in retry.counts(folder).items()
            ),
        )
    return table


def _fraction_and_rate(progress: dict[str, Any]) -> tuple[str, str]:
    fraction, rate = "", progress.get("img_per_s")
    if count := _count(progress):
        fraction = f"{min(99, round(100 * count[0] / count[1]))} %"
    return fraction, f"{rate:,.0f}" if isinstance(rate, int | float) else ""


def _count(progress: dict[str, Any]) -> tuple[float, float] | None:
    """Return done and total; None after a complete count, because the stage still runs."""
    done, total = progress.get("done"), progress.get("total")
    if isinstance(done, int | float) and isinstance(total, int | float) and done < total:
        return done, total
    return None


def _left(left_s: object) -> str:
    """Format the remaining seconds; "" if they are unknown, or too few to be true."""
    return seconds(left_s) if isinstance(left_s, int | float) and left_s >= MIN_LEFT_S else ""


def _plain(run: Run, events: Iterator[Event], console: Console) -> None:
    printed_at, clock = time.monotonic(), _Clock(run)
    for event in events:
        clock.count(event)
        if event.what in ("done", "failed", "retry"):
            console.print(
                event_line(event, _num_finished(run), len(run.matrix.stages)),
                markup=False,
                soft_wrap=True,
            )
            printed_at = time.monotonic()
        elif time.monotonic() - printed_at > STILL_RUNNING_EVERY_S and run.running:
            printed_at = time.monotonic()
            for stage, started in run.running.values():
                progress = describe_progress(progress_of(stage.folder(run.folders.runs)))
                text = ", ".join(filter(None, (seconds(printed_at - started), progress)))
                console.print(
                    f"... {stage.name.replace('/', ' ')}: {text}", markup=False, soft_wrap=True
                )
            if left := _left(clock.left_s()):
                finished = f"{_num_finished(run)} of {counted(len(run.matrix.stages), 'stage')}"
                console.print(f"... {finished}, about {left} left", soft_wrap=True)


def _live(run: Run, events: Iterator[Event], console: Console) -> None:
    overall = bar(console, "stages")
    task = overall.add_task("overall", total=None, count="", eta="")
    clock, refreshed_at = _Clock(run), -REFRESH_EVERY_S
    # Do not estimate at once: the first estimate imports code, and no stage can start meanwhile.
    estimated_at, left_s = time.monotonic(), None
    with Live(console=console, refresh_per_second=1 / REFRESH_EVERY_S, transient=True) as live:
        for event in events:
            clock.count(event)
            if event.what in ("done", "failed", "retry"):
                style = {"failed": "red", "retry": "yellow"}.get(event.what)
                live.console.print(
                    event_line(event, _num_finished(run), len(run.matrix.stages)),
                    markup=False,
                    style=style,
                    soft_wrap=True,
                )
            now = time.monotonic()
            if now - refreshed_at < REFRESH_EVERY_S:
                continue
            refreshed_at = now
            if now - estimated_at >= ESTIMATE_EVERY_S:
                estimated_at, left_s = now, clock.left_s()
            elapsed_s = now - clock.started_at
            overall.update(
                task,
                completed=elapsed_s,
                total=None if left_s is None else elapsed_s + max(MIN_LEFT_S, left_s),
                count=f"{_num_finished(run)}/{len(run.matrix.stages)}",
                eta=f"about {left} left" if (left := _left(left_s)) else "",
            )
            live.update(Group(overall, _running_tables(run)))


class _Clock:
    """Remaining time of a run, from the stages that it has finished."""

    def __init__(self, run: Run) -> None:
        self.run, self.started_at = run, time.monotonic()
        self._ended: set[str] = set()
        self._finished: list[tuple[Stage, float]] = []  # stage, seconds: not in the estimate yet
        self._shown = Smoothed()

    def count(self, event: Event) -> None:
        """Record from an event of the run that a stage has ended."""
        if event.stage is None or event.what not in ("done", "failed", "skipped"):
            return
        self._ended.add(event.stage.key)
        if event.what == "done" and event.wall_s > 0:  # 0 if another run has finished it
            self._finished.append((event.stage, event.wall_s))

    @cached_property
    def _remaining(self) -> "RemainingTime":
        """Return the estimate; create it on first use, because imports would delay early stages."""
        from harness.estimate.remaining import RemainingTime

        run = self.run
        # It is unknown on which machines other launchers run stages.
        on_cpu = isinstance(run.launcher, LocalLauncher) and not environment.gpu_names()
        return RemainingTime(run.pending, run.folders.runs, run.matrix.urgency, on_cpu=on_cpu)

    def left_s(self) -> float | None:
        """Estimate the seconds until the run ends; None if they are not known yet."""
        from harness.estimate.remaining import Running

        run, now = self.run, time.monotonic()
        for stage, wall_s in self._finished:
            self._remaining.add(stage, wall_s)
        self._finished.clear()
        running = [
            Running(stage, now - started, _fraction_done(stage.folder(run.folders.runs)))
            for stage, started in run.running.values()
        ]
        out = self._ended | run.running.keys() | run.blocked
        waiting = (stage for key, stage in run.pending.items() if key not in out)
        left_s = self._remaining.seconds(waiting, running, run.launcher.num_slots)
        return self._shown.next(now - self.started_at, left_s)


def _running_tables(run: Run) -> Group:
    now = time.monotonic()
    table = running_table(
        ((stage, now - started) for stage, started in run.running.values()), run.folders.runs
    )
    return Group(
        table,
        *(
            Text(f"{run.pending[key].name}: runs in another process", style="dim")
            for key in run.busy
        ),
    )


def _fraction_done(folder: Path) -> float:
    progress = progress_of(folder)
    return min(1.0, progress.get("done", 0) / progress["total"]) if progress.get("total") else 0.0


def _num_finished(run: Run) -> int:
    return len(run.finished) + len(run.failed)
