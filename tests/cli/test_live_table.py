"""The live table of a running matrix: what it shows, and that it stays cheap with thousands of stages."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness.cli import live_table as display
from harness.matrix.stage import Stage
from harness.runner.context import StageContext
from harness.runner.executor import Event
from harness.system.folders import Folders


@pytest.fixture
def stages() -> list[Stage]:
    return [
        Stage("evaluate", {"settings": {"attack": {"steps": steps}}}, name=f"evaluate/{steps}")
        for steps in range(4)
    ]


def run_of(stages: list[Stage], tmp_path: Path) -> Any:
    return SimpleNamespace(
        to_do={stage.key: stage for stage in stages},
        running={},
        busy={},
        finished=set(),
        failed={},
        matrix=SimpleNamespace(stages=stages),
        folders=Folders(tmp_path, tmp_path, tmp_path),
    )


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def test_the_bar_adds_up_what_is_over_and_what_runs(
    stages: list[Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bars, make_bar = [], display.bar
    monkeypatch.setattr(
        display, "bar", lambda *arguments: bars.append(make_bar(*arguments)) or bars[0]
    )
    monkeypatch.setattr(display, "REFRESH_EVERY_S", 1e-9)
    run, completed = run_of(stages, tmp_path), []
    done, failed, skipped, runs = stages  # of 1, 2, 3 and 4 passes

    def events() -> Iterator[Event]:
        for what, stage in (("done", done), ("failed", failed), ("skipped", skipped)):
            run.finished.add(stage.key)
            yield Event(what, stage)
            completed.append(bars[0].tasks[0].completed)
        run.running[runs.key] = (runs, 0.0)
        StageContext({}, runs.folder(tmp_path), {}, {}, tmp_path, tmp_path, 1, "cpu").progress(
            done=1, total=4
        )
        yield Event("waiting")
        completed.append(bars[0].tasks[0].completed)

    display._live(run, events(), terminal())
    assert completed == [1, 3, 6, 7] and bars[0].tasks[0].total == 10


def test_many_events_ask_little(
    stages: list[Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []
    work, progress_of = display.work, display.progress_of
    monkeypatch.setattr(display, "work", lambda stage: asked.append("work") or work(stage))
    monkeypatch.setattr(
        display, "progress_of", lambda folder: asked.append("progress") or progress_of(folder)
    )
    monkeypatch.setattr(display, "REFRESH_EVERY_S", 1e9)
    run = run_of(stages, tmp_path)
    run.running = {stage.key: (stage, 0.0) for stage in stages[:2]}
    display._live(run, iter([Event("waiting")] * 100), terminal())
    assert asked.count("work") == len(stages) and asked.count("progress") <= 2 * len(run.running)
