"""The live table of a running matrix: its bar, and its cost with thousands of stages."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness.cli import live_table
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
        pending={stage.key: stage for stage in stages},
        running={},
        busy={},
        finished=set(),
        failed={},
        matrix=SimpleNamespace(stages=stages),
        folders=Folders(tmp_path, tmp_path, tmp_path),
    )


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def test_the_bar_sums_the_work_of_finished_and_running_stages(
    stages: list[Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bars, make_bar = [], live_table.bar
    monkeypatch.setattr(
        live_table, "bar", lambda *arguments: bars.append(make_bar(*arguments)) or bars[0]
    )
    monkeypatch.setattr(live_table, "REFRESH_EVERY_S", 1e-9)
    run, completed = run_of(stages, tmp_path), []
    done, failed, skipped, running = stages  # of 1, 2, 3 and 4 passes

    def events() -> Iterator[Event]:
        for what, stage in (("done", done), ("failed", failed), ("skipped", skipped)):
            run.finished.add(stage.key)
            yield Event(what, stage)
            completed.append(bars[0].tasks[0].completed)
        run.running[running.key] = (running, 0.0)
        StageContext({}, running.folder(tmp_path), {}, {}, tmp_path, tmp_path, 1, "cpu").progress(
            done=1, total=4
        )
        yield Event("waiting")
        completed.append(bars[0].tasks[0].completed)

    live_table._live(run, events(), terminal())
    assert completed == [1, 3, 6, 7] and bars[0].tasks[0].total == 10


def test_events_between_refreshes_read_no_files(
    stages: list[Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[Any] = []
    spec, progress_of = stages[0].spec, live_table.progress_of
    counting = replace(spec, work=lambda config: calls.append("work") or spec.work(config))
    monkeypatch.setattr(Stage, "spec", counting)
    monkeypatch.setattr(
        live_table, "progress_of", lambda folder: calls.append("progress") or progress_of(folder)
    )
    monkeypatch.setattr(live_table, "REFRESH_EVERY_S", 1e9)
    run = run_of(stages, tmp_path)
    run.running = {stage.key: (stage, 0.0) for stage in stages[:2]}
    live_table._live(run, iter([Event("waiting")] * 100), terminal())
    assert calls.count("work") == len(stages) and calls.count("progress") <= 2 * len(run.running)
