"""Reasons why jobs wait in a cluster's queue reach `harness status` and the live table."""

import os
from pathlib import Path

from click.testing import CliRunner

from harness.cli.commands import status
from harness.cli.live_table import progress_of
from harness.config.load import read
from harness.matrix.expand import expand
from harness.runner import queue_state
from harness.system.folders import Folders

REASON = "Slurm job 12_3: PENDING (Resources)"


def test_a_reason_is_read_until_it_is_cleared_or_expires(tmp_path: Path):
    assert queue_state.read(tmp_path) == ""
    queue_state.write(tmp_path, REASON)
    assert queue_state.read(tmp_path) == REASON
    file = tmp_path / queue_state.FILE_NAME
    expired = file.stat().st_mtime - queue_state.EXPIRES_S - 1
    os.utime(file, (expired, expired))
    assert queue_state.read(tmp_path) == "", "the run that wrote it has ended"
    queue_state.write(tmp_path, REASON)
    queue_state.clear(tmp_path)
    queue_state.clear(tmp_path)
    assert queue_state.read(tmp_path) == ""


def test_the_live_table_shows_the_reason_instead_of_old_progress(tmp_path: Path):
    (tmp_path / "progress.json").write_text('{"done": 1, "total": 2}')
    queue_state.write(tmp_path, REASON)
    assert progress_of(tmp_path) == {"note": REASON}


def test_status_shows_why_a_stage_waits(folders: Folders):
    stage = expand(read("demo")).stages[0]
    folder = stage.folder(folders.runs)
    folder.mkdir(parents=True)
    arguments = ["demo", "--runs-dir", str(folders.runs), "--data-dir", str(folders.data)]
    assert "PENDING" not in CliRunner().invoke(status.command, arguments).output
    queue_state.write(folder, REASON)
    shown = CliRunner().invoke(status.command, arguments, env={"COLUMNS": "200"}).output
    assert any(stage.name in line and REASON in line for line in shown.splitlines())
