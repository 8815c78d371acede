"""Progress of long work: a bar with rate and ETA on a terminal, otherwise a line every 15 s."""

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from harness.cli import verbosity

PLAIN_LINE_EVERY_S = 15.0
MIN_TEXT_WIDTH = 30  # columns; a narrower column of text is not wrapped

# Called with the number of finished items and the total number of items.
Report = Callable[[int, int], None]


def out() -> Console:
    """Return a console on standard output, for results. Square brackets are not markup in it."""
    return Console(highlight=False, markup=False)


def err() -> Console:
    """Return a console on standard error, for progress; it is silent with -q."""
    return Console(stderr=True, highlight=False, markup=False, quiet=verbosity.is_quiet())


@contextmanager
def progress(title: str, unit: str = "images") -> Iterator[Report]:
    """Show progress inside the block; yield a cheap function to call after each item."""
    console = err()
    if console.quiet:
        yield lambda done, total: None
        return
    if not console.is_terminal:
        yield _plain(title, unit)
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        _Left(),
        console=console,
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def width() -> int | None:
    """Columns of standard output: $COLUMNS, or those of the terminal; None in a pipe or a file."""
    if os.environ.get("COLUMNS", "").isdigit() or sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return None


def hanging(head: str, text: str) -> str:
    """Return `head` and `text`, wrapped for a terminal; further lines are indented by the head.

    For a pipe or a file the text stays on one line.
    """
    columns = width()
    if columns is None or columns - len(head) < MIN_TEXT_WIDTH:
        return f"{head}{text}".rstrip()
    return textwrap.fill(
        f"{head}{text}",
        columns,
        subsequent_indent=" " * len(head),
        replace_whitespace=False,
        drop_whitespace=True,
        break_on_hyphens=False,
        break_long_words=False,
    )


def fitting(rows: Sequence[Sequence[str]], right: Sequence[int]) -> tuple[list[str], list[str]]:
    """Align the columns of a table, and drop its last columns if the terminal is too narrow.

    Args:
        rows: cells; the first row is the header.
        right: indices of the columns that are aligned at the right.

    Returns:
        Lines, and headers of the dropped columns.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    columns, shown = width(), len(widths)
    while columns is not None and shown > 1 and sum(widths[:shown]) + 2 * (shown - 1) > columns:
        shown -= 1
    lines = []
    for row in rows:
        cells = [
            text.rjust(width_) if number in right else text.ljust(width_)
            for number, (text, width_) in enumerate(zip(row[:shown], widths[:shown], strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines, list(rows[0][shown:])


def bar(console: Console, unit: str) -> Progress:
    """Return a progress bar for a live display; its tasks need the texts `count` and `eta`."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[count]}" + f" {unit}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}", markup=False),
        console=console,
    )


def seconds(value: float) -> str:
    """Format a duration: 8.1 s, 3 min 20 s, 5 h 12 min, 12 days 5 h."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 72 else f"{hours // 24} days {hours % 24} h"


def size(num_bytes: float) -> str:
    """Format a number of bytes with three digits at most: 870 kB, 3.2 MB, 110 GB."""
    value, unit = float(num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 9.95 or unit == "bytes" else f"{value:.1f} {unit}"


class _Left(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        """Show the remaining time, unless all items are done and what follows them still runs."""
        return Text() if task.finished else super().render(task)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed or 0, self.unit))


def _rate(per_s: float, unit: str) -> str:
    """Format a rate of items; "" below one per second."""
    return f"{per_s:,.0f} {unit}/s" if per_s >= 1 else ""


def _plain(title: str, unit: str) -> Report:
    started = printed_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal printed_at
        now = time.monotonic()
        if now - printed_at < PLAIN_LINE_EVERY_S:
            return
        printed_at = now
        rate = done / (now - started)
        left = f"{seconds((total - done) / rate)} left" if rate > 0 and done < total else ""
        parts = (f"{done:,} of {total:,} {unit}", _rate(rate, unit), left)
        print(f"{title}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)

    return report
