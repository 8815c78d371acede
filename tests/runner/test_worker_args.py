"""Settings of `harness run` reach the worker: checkpoint interval and number of traced steps."""

from pathlib import Path

import pytest

from harness.runner import worker_args
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers.local import LocalLauncher
from harness.runner.slots import make_slots
from harness.system.folders import Folders


def test_settings_of_the_run_reach_the_worker(tmp_path):
    settings = LauncherSettings(
        Folders(tmp_path, tmp_path, tmp_path), 1, "cpu", checkpoint_minutes=2.5, trace_steps=7
    )
    launcher = LocalLauncher(settings, make_slots(settings))
    options = worker_args.parse(launcher._command(launcher.slots[0])[3:])
    assert (options.checkpoint_minutes, options.trace) == (2.5, 7)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, (5.0, 0)), ({"HARNESS_CHECKPOINT_MINUTES": "1", "HARNESS_TRACE": "3"}, (1.0, 3))],
)
def test_defaults_come_from_the_environment(monkeypatch, variables, expected):
    for name in ("HARNESS_CHECKPOINT_MINUTES", "HARNESS_TRACE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    options = worker_args.parse([str(Path("stage"))])
    assert (options.checkpoint_minutes, options.trace) == expected
