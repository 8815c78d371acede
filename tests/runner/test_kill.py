"""Kill the executor, a worker or what forks them, with SIGKILL, at 20 seeded moments: numbers end as undisturbed, nothing is
done twice, nothing outlives it. And what people and disks do to a stage's folder."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.runner import lease, result
from harness.runner.context import read_orders
from harness.runner.executor import begin
from harness.system import os_errors as disk
from harness.system.folders import Folders
from tests.helpers import ROOT
from tests.runner.test_executor import (
    execute,
    folders,
    is_alive,
    journal,
    make,
    matrix_of,
    value,
    wait_for,
    write_script,
)
from writers.errors import UserError

NUM_KILLS = 20
__all__ = ["folders", "journal", "make"]


@pytest.fixture(autouse=True)
def _workers_find_the_fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def workers_of(pid: int) -> list[int]:
    """What it has started, by /proc: the server that forks workers, and these."""
    try:
        children = [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []
    return [*children, *(grandchild for child in children for grandchild in workers_of(child))]


def test_killed_at_twenty_moments_ends_as_if_undisturbed(folders, make, tmp_path):
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


def test_a_result_of_an_older_schema_or_of_another_stage_is_named(folders, make):
    one, other = make("one"), make("other")
    after = make("after", one)
    execute(matrix_of(one, other), folders)
    record = one.folder(folders.runs) / "result.json"
    good = record.read_text()
    for text, said in (
        (
            good.replace('"schema_version": 1', '"schema_version": 0'),
            "has schema 0, this harness reads 1",
        ),
        (good.replace(one.key, other.key), "is the result of another stage"),
        (good[:100], "is not a result this harness wrote"),
    ):
        record.write_text(text)
        with pytest.raises(UserError, match=said):
            result.load(record.parent)
        run = execute(matrix_of(one, after), folders)
        assert said in run.failed[after.key] and str(record) in run.failed[after.key]


def test_orders_edited_by_hand_are_written_anew(folders, make):
    stage = make("edited")
    folder = stage.folder(folders.runs)
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text("{")
    assert not execute(matrix_of(stage), folders).failed


def test_orders_that_do_not_fit_their_folder_are_refused(folders, make, tmp_path):
    """As left by hand, and run without the executor, which would write them anew."""
    stage, other = make("mine"), make("other")
    folder = stage.folder(folders.runs)
    folder.mkdir(parents=True)
    changed = {**stage.describe(), "config": {**stage.config, "sleep_s": 9}}
    for text, said in (
        (json.dumps(changed), "changed by hand"),
        ("{", "is damaged"),
        (None, "is not there"),
        (json.dumps(other.describe()), "does not belong to this folder"),
        ('{"kind": "rank"}', "is damaged"),
    ):
        (folder / "stage.json").unlink(missing_ok=True)
        if text is not None:
            (folder / "stage.json").write_text(text)
        with pytest.raises(UserError, match=said):
            read_orders(folder)
    (folder / "stage.json").write_text(json.dumps(changed))
    line = [
        sys.executable,
        "-m",
        "harness.runner.worker",
        str(folder),
        "--data-dir",
        str(folders.data),
        "--stages-package",
        "tests.helpers.fake_stages",
    ]
    ended = subprocess.run(line, capture_output=True, text=True)
    assert (
        ended.returncode == 1
        and "changed by hand" in ended.stderr
        and "Traceback" not in ended.stderr
    )
    assert not (tmp_path / "journal.txt").exists()
    assert not execute(matrix_of(stage), folders).failed


def test_a_runs_folder_that_cannot_be_written_is_named(folders):
    """/sys takes no folders, not even from root."""
    refused = Folders(folders.data, folders.raw, Path("/sys/runs"))
    with pytest.raises(OSError) as caught:
        begin(refused)
    explained = disk.explain(caught.value)
    assert explained is not None and "/sys/runs" in str(explained)


def test_a_disk_that_fills_up_fails_its_stage_and_not_the_run(folders, make, journal):
    """The journal, which a stage writes to, lies on /dev/full."""
    full, other = make("full", journal="/dev/full"), make("other")
    run = execute(matrix_of(full, other), folders)
    assert run.failed[full.key].startswith("The disk is full") and journal() == ["other"]


def test_a_file_system_that_refuses_is_named(folders, make, journal):
    """A file stands where a stage's folder should be: that stage fails, and no other."""
    stage, other = make("refused"), make("other")
    folder = stage.folder(folders.runs)
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    run = execute(matrix_of(stage, other), folders)
    assert str(folder) in run.failed[stage.key] and journal() == ["other"]
