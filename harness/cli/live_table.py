"""What a person sees of a running matrix: on a terminal a live table, elsewhere a line per stage."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.cli.console import bar, seconds
from harness.matrix.expand import work
from harness.matrix.stage import Stage
from harness.runner import retry
from harness.runner.executor import Event, Run

STILL_RUNNING_EVERY_S = 60.0
REFRESH_EVERY_S = 0.25


def follow(run: Run, console: Console) -> None:
    """Drive `run` to its end, showing what happens."""
    events = run.events()
    if console.is_terminal:
        _live(run, events, console)
    else:
        _plain(run, events, console)


def line(event: Event, num_over: int, num_stages: int) -> str:
    """[12/41] transfer synthetic_patterns full all eps0.5 seed0   8.1 s"""
    assert event.stage is not None
    end = {
        "done": seconds(event.wall_s),
        "failed": f"FAILED: {event.message}",
        "retry": f"will be tried again: {event.message}",
    }[event.what]
    return f"[{num_over}/{num_stages}] {event.stage.name.replace('/', ' ')}   {end}"


def progress_of(folder: Path) -> dict[str, Any]:
    """What a running stage last said about itself; empty where it has said nothing."""
    try:
        said = json.loads((folder / "progress.json").read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def describe_progress(said: dict[str, Any]) -> str:
    """5/24, 1,204 images/s, epoch note."""
    parts = []
    if isinstance(said.get("done"), (int, float)) and isinstance(said.get("total"), (int, float)):
        parts.append(f"{said['done']:,}/{said['total']:,}")
    if isinstance(said.get("img_per_s"), (int, float)):
        parts.append(f"{said['img_per_s']:,.0f} images/s")
    if said.get("note"):
        parts.append(str(said["note"]))
    return ", ".join(parts)


def running_table(running: Iterable[tuple[Stage, float | None]], runs: Path) -> Table:
    """A row for each (stage, seconds since its start): how far it is, its rate, the time it has left, its earlier attempts."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("running", overflow="fold", ratio=1)
    for column in ("done", "img/s", "for", "ETA", "retries"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage, for_s in running:
        folder = stage.folder(runs)
        said = progress_of(folder)
        note = f"  {said['note']}" if said.get("note") else ""
        table.add_row(
            Text.assemble(stage.name, (note, "dim")),
            *_numbers(said),
            seconds(for_s) if for_s is not None else "",
            seconds(said["eta_s"]) if isinstance(said.get("eta_s"), (int, float)) else "",
            ", ".join(
                f"{number} {cause.replace('_', ' ')}"
                for cause, number in retry.counts(folder).items()
            ),
        )
    return table


def _numbers(said: dict[str, Any]) -> tuple[str, str]:
    """How much of a count is done, and the rate."""
    done, total, rate = (said.get(name) for name in ("done", "total", "img_per_s"))
    share = ""
    if isinstance(done, (int, float)) and isinstance(total, (int, float)) and total > 0:
        share = f"{100 * done / total:.0f} %"
    return share, f"{rate:,.0f}" if isinstance(rate, (int, float)) else ""


def _plain(run: Run, events: Iterator[Event], console: Console) -> None:
    said_at = time.monotonic()
    for event in events:
        if event.what in ("done", "failed", "retry"):
            console.print(
                line(event, _num_over(run), len(run.matrix.stages)), markup=False, soft_wrap=True
            )
            said_at = time.monotonic()
        elif time.monotonic() - said_at > STILL_RUNNING_EVERY_S and run.running:
            said_at = time.monotonic()
            for stage, started in run.running.values():
                where = describe_progress(progress_of(stage.folder(run.folders.runs)))
                words = ", ".join(filter(None, (seconds(said_at - started), where)))
                console.print(
                    f"... {stage.name.replace('/', ' ')}: {words}", markup=False, soft_wrap=True
                )


def _live(run: Run, events: Iterator[Event], console: Console) -> None:
    work_of = {
        key: work(stage) for key, stage in run.to_do.items()
    }  # asked once, and not at every event
    overall = bar(console, "stages")
    task = overall.add_task("overall", total=sum(work_of.values()), count="")
    work_over, refreshed_at = 0.0, -REFRESH_EVERY_S
    with Live(console=console, refresh_per_second=1 / REFRESH_EVERY_S, transient=True) as live:
        for event in events:
            if event.what in ("done", "failed", "retry"):
                style = {"failed": "red", "retry": "yellow"}.get(event.what)
                live.console.print(
                    line(event, _num_over(run), len(run.matrix.stages)),
                    markup=False,
                    style=style,
                    soft_wrap=True,
                )
            if event.stage is not None and event.what in ("done", "failed", "skipped"):
                work_over += work_of[event.stage.key]
            if time.monotonic() - refreshed_at < REFRESH_EVERY_S:
                continue
            refreshed_at = time.monotonic()
            begun = sum(
                work_of[key] * _share_over(stage.folder(run.folders.runs))
                for key, (stage, _) in run.running.items()
            )
            overall.update(
                task,
                completed=work_over + begun,
                count=f"{_num_over(run)}/{len(run.matrix.stages)}",
            )
            live.update(Group(overall, _running_table(run)))


def _running_table(run: Run) -> Group:
    now = time.monotonic()
    table = running_table(
        ((stage, now - started) for stage, started in run.running.values()), run.folders.runs
    )
    return Group(
        table,
        *(Text(f"{run.to_do[key].name}: another process runs it", style="dim") for key in run.busy),
    )


def _share_over(folder: Path) -> float:
    """Of a running stage, by what it last said."""
    said = progress_of(folder)
    return min(1.0, said.get("done", 0) / said["total"]) if said.get("total") else 0.0


def _num_over(run: Run) -> int:
    return len(run.finished) + len(run.failed)
