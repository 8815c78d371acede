"""SIGKILL of executor, workers and fork server at 20 seeded moments, and damaged stage folders.

After the kills the numbers equal those of an undisturbed run, no stage was finished twice, and no
process is left.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.runner import result
from harness.runner.context import load_spec
from harness.runner.executor import begin
from harness.system import os_errors
from harness.system.folders import Folders
from tests.helpers.execution import (
    FAKE_STAGES,
    execute,
    is_alive,
    matrix_of,
    value,
    wait_for,
    workers_of,
    write_script,
)
from writers import lease
from writers.errors import UserError

NUM_KILLS = 20


def test_a_run_killed_at_twenty_moments_ends_like_an_undisturbed_one(folders, make, tmp_path):
    rng = random.Random(7)
    first = make("first", sleep_s=0.3)
    middle = [make(f"middle{index}", first, sleep_s=0.3) for index in range(6)]
    stages = [first, *middle, make("last", *middle, sleep_s=0.3)]
    script, started, kills = write_script(tmp_path, folders, stages), set(), 0
    while kills < NUM_KILLS:
        run = subprocess.Popen([sys.executable, script, "2"])
        started.add(run.pid)
        time.sleep(rng.uniform(0.2, 0.9))
        workers = workers_of(run.pid)
        started |= set(workers)
        if rng.random() < 0.5 and workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
            time.sleep(0.1)
        run.kill()
        run.wait()
        kills += 1
    wait_for(lambda: not any(is_alive(pid) for pid in started))
    assert not execute(matrix_of(*stages), folders, 2).failed
    assert [value(stage, folders) for stage in stages] == [1] + [2] * 6 + [13]
    assert not any(lease.is_held(stage.folder(folders.runs)) for stage in stages)
    before = [(stage.folder(folders.runs) / "result.json").stat().st_mtime_ns for stage in stages]
    execute(matrix_of(*stages), folders, 2)
    assert before == [
        (stage.folder(folders.runs) / "result.json").stat().st_mtime_ns for stage in stages
    ]


def test_results_of_other_schemas_or_stages_are_refused_by_name(folders, make):
    first, other = make("one"), make("other")
    after = make("after", first)
    execute(matrix_of(first, other), folders)
    record = first.folder(folders.runs) / "result.json"
    good = record.read_text()
    for text, message in (
        (
            good.replace('"schema_version": 1', '"schema_version": 0'),
            "has schema 0, this harness reads 1",
        ),
        (good.replace(first.key, other.key), "is the result of another stage"),
        (good[:100], "is not a result this harness wrote"),
    ):
        record.write_text(text)
        with pytest.raises(UserError, match=message):
            result.load(record.parent)
        run = execute(matrix_of(first, after), folders)
        assert message in run.failed[after.key] and str(record) in run.failed[after.key]


def test_a_damaged_stage_json_is_rewritten(folders, make):
    stage = make("edited")
    folder = stage.folder(folders.runs)
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text("{")
    assert not execute(matrix_of(stage), folders).failed


def test_a_stage_json_of_another_folder_is_refused(folders, make, tmp_path):
    """Only a worker that is started by hand meets such a file: the executor rewrites it first."""
    stage, other = make("edited"), make("other")
    folder = stage.folder(folders.runs)
    folder.mkdir(parents=True)
    changed = {**stage.to_json(), "config": {**stage.config, "sleep_s": 9}}
    for text, message in (
        (json.dumps(changed), "changed by hand"),
        ("{", "is damaged"),
        (None, "does not exist"),
        (json.dumps(other.to_json()), "does not belong to this folder"),
        ('{"kind": "rank"}', "is damaged"),
    ):
        (folder / "stage.json").unlink(missing_ok=True)
        if text is not None:
            (folder / "stage.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load_spec(folder)
    (folder / "stage.json").write_text(json.dumps(changed))
    line = [
        sys.executable,
        "-m",
        "harness.runner.worker",
        str(folder),
        "--data-dir",
        str(folders.data),
        "--stages-package",
        FAKE_STAGES,
    ]
    ended = subprocess.run(line, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "changed by hand" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "journal.txt").exists()
    assert not execute(matrix_of(stage), folders).failed


def test_an_unwritable_runs_folder_is_named(folders):
    """/sys refuses new folders, even for root."""
    refused = Folders(folders.data, folders.raw, Path("/sys/runs"))
    with pytest.raises(OSError) as caught:
        begin(refused)
    explained = os_errors.explain(caught.value)
    assert explained is not None and "/sys/runs" in str(explained)


def test_a_full_disk_fails_its_stage_but_not_the_run(folders, make, journal):
    """The stage writes its journal to /dev/full."""
    full, other = make("full", journal="/dev/full"), make("other")
    run = execute(matrix_of(full, other), folders)
    assert run.failed[full.key].startswith("The disk is full") and journal() == ["other"]


def test_a_file_in_the_way_of_a_folder_is_named(folders, make, journal):
    """If a file has the name of a stage's folder, only that stage fails."""
    stage, other = make("refused"), make("other")
    folder = stage.folder(folders.runs)
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    run = execute(matrix_of(stage, other), folders)
    assert str(folder) in run.failed[stage.key] and journal() == ["other"]
