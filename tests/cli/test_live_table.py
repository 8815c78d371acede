"""The live table of a running matrix: its progress bar, its time left, and what it reads."""

import io
import os
import re
import time
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
        Stage("pretrain", {"settings": {"epochs": epochs}}, name=f"pretrain/{epochs}")
        for epochs in range(1, 5)
    ]


def run_of(stages: list[Stage], tmp_path: Path) -> Any:
    return SimpleNamespace(
        pending={stage.key: stage for stage in stages},
        running={},
        busy={},
        blocked=set(),
        launcher=SimpleNamespace(num_slots=2),
        finished=set(),
        failed={},
        matrix=SimpleNamespace(
            stages=stages,
            urgency={stage.key: stage.config["settings"]["epochs"] for stage in stages},
        ),
        folders=Folders(tmp_path, tmp_path, tmp_path),
    )


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def test_the_bar_shows_the_time_left_at_measured_rates(
    stages: list[Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bars, make_bar = [], live_table.bar
    monkeypatch.setattr(
        live_table, "bar", lambda *arguments: bars.append(make_bar(*arguments)) or bars[0]
    )
    monkeypatch.setattr(live_table, "REFRESH_EVERY_S", 1e-9)
    monkeypatch.setattr(live_table, "ESTIMATE_EVERY_S", 0.0)
    run, shown = run_of(stages, tmp_path), []
    done, failed, skipped, running = stages  # 1, 2, 3 and 4 epochs, on two slots

    def events() -> Iterator[Event]:
        yield Event("waiting")
        shown.append(bars[0].tasks[0].fields["eta"])
        run.finished.add(done.key)
        yield Event("done", done, wall_s=10.0)
        # 10 s per epoch: one slot has 4 epochs left, the other 3 + 2.
        shown.append(bars[0].tasks[0].fields["eta"])
        for what, stage in (("failed", failed), ("skipped", skipped)):
            yield Event(what, stage)
        run.running[running.key] = (running, time.monotonic() - 15.0)
        StageContext({}, running.folder(tmp_path), {}, {}, tmp_path, tmp_path, 1, "cpu").progress(
            done=1, total=4
        )
        yield Event("waiting")
        # The last stage has needed at least 15 s for a quarter, so at least 45 s are left.
        shown.append(bars[0].tasks[0].fields["eta"])

    live_table._live(run, events(), terminal())
    assert shown[:2] == ["", "about 50.0 s left"]
    # Without the reported progress, 25 s would be left: 4 epochs of 10 s, less 15 s.
    assert seconds_of(shown[2]) >= 45.0


def seconds_of(text: str) -> float:
    minutes = re.search(r"(\d+) min", text)
    seconds = re.search(r"([\d.]+) s", text)
    return 60.0 * int(minutes[1] if minutes else 0) + float(seconds[1] if seconds else 0)


def test_without_a_terminal_the_time_left_is_printed(
    stages: list[Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live_table, "STILL_RUNNING_EVERY_S", 0.0)
    run = run_of(stages, tmp_path)
    run.running[stages[1].key] = (stages[1], time.monotonic())

    def events() -> Iterator[Event]:
        run.finished.add(stages[0].key)
        yield Event("done", stages[0], wall_s=10.0)
        yield Event("waiting")

    console = Console(file=io.StringIO())
    live_table._plain(run, events(), console)
    assert "... 1 of 4 stages, about 50.0 s left" in console.file.getvalue()


def test_no_time_is_left_after_the_last_step_of_a_part(stages: list[Stage], tmp_path: Path):
    """The evaluation that follows was shown with 100 % and 0.0 s left."""
    training, evaluating = stages[:2]
    contexts = [
        StageContext({}, stage.folder(tmp_path), {}, {}, tmp_path, tmp_path, 1, "cpu")
        for stage in (training, evaluating)
    ]
    for context in contexts:
        context.progress(done=1, total=1000, note="training, epoch 1")
        context.phase["at"] -= 100.0
        context.progress(done=500, total=1000, note="training, epoch 1")
    contexts[1].progress(done=1000, total=1000, note="evaluation")

    def shown() -> str:
        console = terminal()
        console.print(live_table.running_table([(training, 9.0), (evaluating, 9.0)], tmp_path))
        return re.sub("\x1b.*?m", "", console.file.getvalue())

    _, first, second = shown().splitlines()
    assert "50 %" in first and re.search(r"1 min \d+ s", first)
    assert "evaluation" in second and "%" not in second
    assert re.findall(r"\S+ s\b", second) == ["9.0 s"]
    progress = live_table.progress_of(evaluating.folder(tmp_path))
    assert live_table.describe_progress(progress) == "evaluation"
    # A part that reports nothing any more has no remaining time either.
    file = training.folder(tmp_path) / "progress.json"
    os.utime(file, (time.time() - 200, time.time() - 200))
    assert "1 min" not in shown()


def test_a_run_that_goes_on_has_never_0_s_left(
    stages: list[Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live_table, "STILL_RUNNING_EVERY_S", 0.0)
    run = run_of(stages[:1], tmp_path)
    run.running[stages[0].key] = (stages[0], time.monotonic() - 50.0)
    context = StageContext({}, stages[0].folder(tmp_path), {}, {}, tmp_path, tmp_path, 1, "cpu")
    context.progress(done=9, total=9, note="evaluation")
    console = Console(file=io.StringIO())
    live_table._plain(run, iter([Event("waiting")]), console)
    assert re.fullmatch(r"\.\.\. pretrain 1: [\d.]+ s, evaluation\n", console.file.getvalue())


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
    monkeypatch.setattr(live_table, "ESTIMATE_EVERY_S", 0.0)
    run = run_of(stages, tmp_path)
    run.running = {stage.key: (stage, 0.0) for stage in stages[:2]}
    live_table._live(run, iter([Event("waiting")] * 100), terminal())
    assert calls.count("work") == len(stages) and calls.count("progress") == 2 * len(run.running)
