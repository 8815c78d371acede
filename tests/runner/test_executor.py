"""Executor and local launcher: order of stages, retries, and no process left after the end.

The stages are fakes that sleep, fail or are killed, as their config demands.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.matrix import stage_kind
from harness.matrix.stage import Stage
from harness.runner import result, stage_state
from harness.runner.executor import Run, begin, prepare, unfinished
from harness.runner.launcher import Finished
from harness.runner.launchers import local
from harness.runner.protocol import request_line
from harness.runner.retry import RetryPolicy
from harness.system.folders import Folders
from tests.helpers.execution import (
    FAKE_STAGES,
    FAST_RETRIES,
    execute,
    is_alive,
    load_result,
    matrix_of,
    read_json,
    settings_for,
    value,
    wait_for,
    write_script,
)
from writers import lock


def test_each_stage_runs_once_after_its_needs_in_one_warm_process(folders, make, journal):
    first = make("first")
    left, right = make("left", first), make("right", first)
    last = make("last", left, right)
    matrix = matrix_of(first, left, right, last)
    run = execute(matrix, folders)
    assert journal()[0] == "first" and journal()[-1] == "last" and len(journal()) == 4
    assert not run.failed and value(last, folders) == 5  # 1 + (1 + 1) + (1 + 1)
    pids = {load_result(stage, folders).metrics["pid"] for stage in matrix.stages}
    assert len(pids) == 1

    execute(matrix, folders)
    assert len(journal()) == 4, "a finished matrix runs no stage"


def test_the_longest_path_starts_first(folders, make, journal):
    short = make("short")
    long = make("long")
    end = make("end", make("middle", long))
    middle = end.needs["need_0"]
    execute(matrix_of(short, long, middle, end), folders)
    assert journal() == ["long", "middle", "short", "end"]


class OneAtATime:
    """Launcher that runs no code: each `wait` reports the oldest running stage as done."""

    def __init__(self, num_slots: int, folders: Folders) -> None:
        self.num_slots, self.running = num_slots, []
        self.settings = settings_for(folders, num_slots, began_at=begin(folders))

    def prefetch(self, kinds) -> None:
        pass

    def can_start(self, stage: Stage) -> bool:
        return len(self.running) < self.num_slots

    def start(self, stage: Stage, folder: Path) -> None:
        self.running.append(folder)

    def wait(self, timeout_s: float) -> list[Finished]:
        return [Finished(self.running.pop(0), "done")]


@pytest.mark.parametrize(("num_slots", "num_finished"), [(1, 2), (2, 2), (3, 1), (9, 0)])
def test_an_idle_slot_is_reported_once_nothing_is_left_to_start(
    folders, make, num_slots: int, num_finished: int
):
    """A single slot is never idle before the end, so that its last stage counts."""
    calls: list[int] = []
    run = Run(
        matrix_of(*(make(name) for name in "abc")),
        folders,
        OneAtATime(num_slots, folders),
        on_idle_slot=lambda: calls.append(len(run.finished)),
    )
    list(run.events())
    assert calls == [num_finished] and len(run.finished) == 3


def test_a_failed_stage_blocks_only_its_dependants_and_the_next_run_retries_it(
    folders, make, journal, tmp_path
):
    fixed = tmp_path / "fixed"
    broken = make("broken", fail=str(fixed))
    after, other = make("after", broken), make("other")
    matrix = matrix_of(broken, after, other)
    run = execute(matrix, folders)
    assert sorted(journal()) == ["broken", "other"]
    assert list(run.failed) == [broken.key] and run.failed[broken.key] == "ZeroDivisionError: a bug"
    assert [stage.name for stage in run.not_run] == ["rank/after"]
    error = (broken.folder(folders.runs) / "error.txt").read_text()
    assert error.startswith("Traceback") and 'raise ZeroDivisionError("a bug")' in error

    fixed.touch()
    assert not execute(matrix, folders).failed
    assert value(after, folders) == 2
    assert not (broken.folder(folders.runs) / "error.txt").exists()
    assert sorted(journal()) == ["after", "broken", "broken", "other"]


def test_a_stage_whose_folder_cannot_be_created_fails_alone(folders, make, journal):
    runs = make("runs", sleep_s=0.5)
    refused = make("refused", kind="transfer")
    after = make("after", refused, kind="evaluate")
    refused.folder(folders.runs).parent.mkdir(parents=True)
    refused.folder(folders.runs).touch()
    with local.open(settings_for(folders, 2)) as launcher:
        run = Run(matrix_of(runs, refused, after), folders, launcher, FAST_RETRIES)
        events = [(event.what, event.stage.name) for event in run.events() if event.stage]
    assert events == [
        ("failed", "transfer/refused"),
        ("started", "rank/runs"),
        ("done", "rank/runs"),
    ]
    assert journal() == ["runs"]
    assert run.failed == {
        refused.key: f"A file of this name exists: {refused.folder(folders.runs)}"
    }
    assert [stage.name for stage in run.not_run] == ["evaluate/after"]


def test_a_user_error_in_a_stage_has_no_traceback(folders, make):
    stage = make("mistaken", mistake=True)
    run = execute(matrix_of(stage), folders)
    assert run.failed[stage.key] == "There is no such image."
    assert (
        stage.folder(folders.runs) / "error.txt"
    ).read_text() == "There is no such image.\nLook again.\n"


def test_a_killed_worker_fails_its_stage_and_is_replaced(folders, make, journal, tmp_path):
    fixed = tmp_path / "fixed"
    killed, others = make("killed", kill=str(fixed)), [make(f"other{index}") for index in range(3)]
    matrix = matrix_of(killed, *others)
    run = execute(matrix, folders)
    assert sorted(journal()) == ["killed"] * 3 + ["other0", "other1", "other2"]
    assert list(run.failed) == [killed.key]
    message = (killed.folder(folders.runs) / "error.txt").read_text()
    assert "SIGKILL (the system does that when memory runs out)" in message
    assert "doctor" not in message
    assert not lock.is_held(killed.folder(folders.runs))
    fixed.touch()
    assert not execute(matrix, folders).failed


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_a_native_crash_is_reported_with_its_signal_and_the_doctor(folders, make, name):
    crashed = make("crashed", crash=name)
    run = execute(matrix_of(crashed), folders)
    message = run.failed[crashed.key]
    assert f"was killed by {name} (" in message
    assert "`harness doctor`" in message
    assert "memory" not in message
    assert message in (crashed.folder(folders.runs) / "error.txt").read_text()


def test_lost_workers_and_exhausted_memory_are_retried_in_the_same_run(folders, make, journal):
    lost, greedy = make("lost", kill_times=1), make("greedy", out_of_memory_times=2)
    run = execute(matrix_of(lost, greedy), folders)
    assert not run.failed and sorted(journal()) == ["greedy"] * 3 + ["lost"] * 2
    assert load_result(lost, folders).retries == {"lost": 1}
    assert load_result(greedy, folders).retries == {"out_of_memory": 2}
    assert not (greedy.folder(folders.runs) / "error.txt").exists()
    crowded = make("crowded", no_room_times=1, no_map_times=2)
    assert not execute(matrix_of(crowded), folders).failed
    assert load_result(crowded, folders).retries == {"out_of_memory": 2}

    hopeless = make("hopeless", out_of_memory_times=9)
    run = execute(matrix_of(hopeless), folders)
    assert journal().count("hopeless") == 3 and "out of memory" in run.failed[hopeless.key]
    assert "out of memory" in (hopeless.folder(folders.runs) / "error.txt").read_text()


@pytest.mark.parametrize("is_masked", [False, True])
def test_a_stage_that_requires_a_new_process_gets_one(folders, make, is_masked):
    """This works even if cleanup raises another exception, as CUDA does in a broken context."""
    stage = make("broken", restart_times=1, masked=is_masked)
    run = execute(matrix_of(stage), folders)
    assert not run.failed
    assert load_result(stage, folders).retries == {"restart": 1}
    first, second = (stage.folder(folders.runs) / "pids").read_text().split()
    assert first != second

    hopeless = make("hopeless", restart_times=9)
    run = execute(matrix_of(hopeless), folders)
    assert "cannot use its GPU" in run.failed[hopeless.key]


def test_a_preempted_stage_saves_and_resumes_in_the_same_run(folders, make, journal, tmp_path):
    """Preemptions end the worker, are not limited by `max_retries`, and do not end the run."""
    enough = tmp_path / "enough"
    stage = make("preempted", until=str(enough))
    folder = stage.folder(folders.runs)
    with local.open(settings_for(folders)) as launcher:
        policy = RetryPolicy(max_retries=0, first_wait_s=0.05)
        run, num_signals = Run(matrix_of(stage), folders, launcher, policy), 0
        for _ in run.events():
            if (
                num_signals < 2
                and read_json(folder / "progress.json").get("done", -1) >= 3 * (num_signals + 1)
                and launcher.slots[0].process
            ):
                launcher.slots[0].process.send_signal(signal.SIGTERM)
                num_signals += 1
                if num_signals == 2:
                    enough.touch()
    record = result.load(folder)
    assert num_signals == 2
    assert not run.failed
    assert record.retries["preempted"] >= 1
    assert record.metrics["resumed_at"] >= 3


def test_all_output_of_a_stage_goes_to_its_log(folders, make):
    stage, after = make("loud"), make("louder")
    execute(matrix_of(stage, after), folders)
    for one in (stage, after):
        lines = (one.folder(folders.runs) / "log.txt").read_text().splitlines()
        name = one.config["name"]
        assert sorted(lines) == sorted([f"this is {name}", f"child of {name}"])


def test_a_result_records_its_environment(folders, make):
    stage = make("one")
    execute(matrix_of(stage), folders)
    record = result.load(stage.folder(folders.runs))
    assert record.environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record.environment["packages"]["numpy"] and record.environment["cpu"]
    assert record.environment["device"] == "cpu" and record.environment["num_threads"] >= 1
    assert record.key == stage.key
    assert record.config == stage.config
    assert record.timing == {"slept_s": 0}


def test_deleted_outputs_are_recomputed_only_for_stages_that_need_them(folders, make, journal):
    """The fake `pretrain` stage writes no model.pt, as if someone had deleted the file."""
    model = make("model", kind="pretrain")
    user = make("user", model)
    folder = model.folder(folders.runs)
    record = result.Result(
        kind="pretrain",
        key=model.key,
        name="",
        axes={},
        config=model.config,
        needs={},
        metrics={"value": 1},
        environment={},
        started_at="",
        wall_s=0,
    )
    result.save(record, folder)
    assert not stage_state.is_done(stage_kind.find("pretrain"), folder, folders.data)
    left = unfinished(matrix_of(model, user), folders)
    assert [stage.name for stage in left.values()] == ["pretrain/model", "rank/user"]
    user_folder = user.folder(folders.runs)
    result.save(record.model_copy(update={"kind": "rank", "key": user.key}), user_folder)
    assert not unfinished(matrix_of(model, user), folders)


def test_two_runs_at_once_run_each_stage_once(folders, make, journal, tmp_path):
    stages = [make(f"stage{index}", sleep_s=0.3) for index in range(6)]
    broken = make("broken", fail=str(tmp_path / "never"), sleep_s=0.1)
    last = make("last", *stages)
    script = write_script(tmp_path, folders, [*stages, broken, last])
    runs = [subprocess.Popen([sys.executable, script, "1"]) for _ in range(2)]
    assert [run.wait(240) for run in runs] == [0, 0]
    assert sorted(journal()) == sorted(stage.config["name"] for stage in (*stages, broken, last))


def test_a_recent_failure_of_another_run_is_not_retried(folders, make, journal):
    """This includes a failure after this run checked the stage and before its worker started."""
    stage = make("failed")
    folder = stage.folder(folders.runs)
    began_at = begin(folders)
    prepare(stage, folder)
    while stage_state.failed_since(folder, began_at) is None:
        (folder / "error.txt").write_text("error of the other run")
    line = [
        sys.executable,
        "-m",
        "harness.runner.worker",
        str(folder),
        "--data-dir",
        str(folders.data),
        "--stages-package",
        FAKE_STAGES,
        "--began-at",
        repr(began_at),
    ]
    assert subprocess.run(line).returncode == 75 and journal() == []
    with local.open(settings_for(folders, began_at=began_at)) as launcher:
        run = Run(matrix_of(stage), folders, launcher, FAST_RETRIES)
        assert [event.what for event in run.events()] == ["failed"]
        assert list(run.failed.values()) == ["error of the other run"]
    assert not execute(matrix_of(stage), folders).failed, "a later run retries"


def test_ctrl_c_lets_stages_save_and_the_next_run_resumes(folders, make, tmp_path):
    stopped = tmp_path / "stopped"
    stages = [make(f"sleeper{index}", until=str(stopped)) for index in range(2)]
    script = write_script(tmp_path, folders, stages)
    run = subprocess.Popen([sys.executable, script, "2"], start_new_session=True)
    steps = [stage.folder(folders.runs) / "progress.json" for stage in stages]
    wait_for(
        lambda: all(path.exists() and json.loads(path.read_text())["done"] >= 4 for path in steps)
    )
    run.send_signal(signal.SIGINT)
    assert run.wait(240) == 130
    stopped.touch()
    assert not any(stage_state.has_result(stage.folder(folders.runs)) for stage in stages)
    assert not any((stage.folder(folders.runs) / "error.txt").exists() for stage in stages)
    assert not execute(matrix_of(*stages), folders, 2).failed
    for stage in stages:
        assert load_result(stage, folders).metrics["resumed_at"] >= 4


def test_no_process_outlives_a_killed_run(folders, make, tmp_path):
    """A killed executor sends no signal; its workers stop when their stdin ends."""
    stage = make("sleeper", sleep_s=60)
    script = write_script(tmp_path, folders, [stage])
    run = subprocess.Popen([sys.executable, script, "1"])
    folder = stage.folder(folders.runs)
    wait_for(lambda: (folder / "progress.json").exists())
    assert lock.is_held(folder)
    run.kill()
    run.wait()
    wait_for(lambda: not lock.is_held(folder))
    assert (folder / "steps.txt").exists(), "the stage had time to save"


def test_a_worker_orphaned_at_its_start_runs_no_stage(folders, make):
    """The launcher died before the worker was ready: request and end of stdin arrive together."""
    stage = make("sleeper", sleep_s=60)
    folder = stage.folder(folders.runs)
    prepare(stage, folder)
    line = settings_for(folders).worker_command("cpu", 1)
    subprocess.run(line, input=request_line(folder, shares_gpu=False), timeout=240)
    assert not stage_state.has_result(folder) and not lock.is_held(folder)


def test_exit_kills_a_stage_that_ignores_sigterm_and_its_children(folders, make, tmp_path):
    child_file = tmp_path / "child"
    stage = make("deaf", sleep_s=60, deaf=True, spawn=str(child_file))
    with local.open(settings_for(folders)) as launcher:
        run = Run(matrix_of(stage), folders, launcher)
        events = run.events()
        wait_for(lambda: next(events) and child_file.exists() and child_file.read_text())
        run.stop(grace_s=0.2)
    assert not lock.is_held(stage.folder(folders.runs))
    child = int(child_file.read_text())
    wait_for(lambda: not is_alive(child))


def test_the_worker_command_runs_one_stage(folders, make):
    stage = make("alone")
    folder = stage.folder(folders.runs)
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps(stage.to_json()))
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
    assert subprocess.run(line, capture_output=True).returncode == 0
    assert value(stage, folders) == 1
    broken = make("broken", mistake=True)
    folder = broken.folder(folders.runs)
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps(broken.to_json()))
    line[3] = str(folder)
    ended = subprocess.run(line, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "There is no such image." in ended.stderr
    assert "Traceback" not in ended.stderr
