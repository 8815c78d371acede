"""The executor and its local workers, on stages that sleep, fail and die: order, isolation, resumption, no orphans."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.matrix import stage_kind
from harness.matrix.expand import Matrix
from harness.matrix.stage import Stage
from harness.runner import lock, result, stage_state
from harness.runner.executor import Run, begin, prepare, unfinished
from harness.runner.launcher import LauncherSettings, request_line
from harness.runner.launchers import local
from harness.runner.retry import RetryPolicy
from harness.system.folders import Folders
from tests.helpers import ROOT
from writers.errors import UserError

SOON = RetryPolicy(max_retries=2, first_wait_s=0.05)


@pytest.fixture(autouse=True)
def _workers_find_the_fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Stage]:
    def make(name: str, *needs: Stage, kind: str = "rank", **config: Any) -> Stage:
        config = {"name": name, "journal": str(tmp_path / "journal.txt"), **config}
        return Stage(
            kind,
            config,
            {f"need_{index}": need for index, need in enumerate(needs)},
            {},
            f"{kind}/{name}",
        )

    return make


@pytest.fixture
def journal(tmp_path: Path) -> Callable[[], list[str]]:
    """The names of the stages that have run, in order."""
    path = tmp_path / "journal.txt"
    return lambda: path.read_text().split() if path.exists() else []


def matrix_of(*stages: Stage) -> Matrix:
    return Matrix(None, stages)  # type: ignore[arg-type]      # the executor has no use for the recipe


def execute(matrix: Matrix, folders: Folders, jobs: int = 1) -> Run:
    with local.open(
        LauncherSettings(folders, jobs, "cpu", "tests.helpers.fake_stages")
    ) as launcher:
        run = Run(matrix, folders, launcher, SOON)
        for _ in run.events():
            pass
    return run


def value(stage: Stage, folders: Folders) -> int:
    found = result.load(stage.folder(folders.runs))
    assert found is not None
    return int(found.metrics["value"])


def test_runs_each_stage_once_after_those_it_needs_in_one_warm_process(folders, make, journal):
    first = make("first")
    left, right = make("left", first), make("right", first)
    last = make("last", left, right)
    matrix = matrix_of(first, left, right, last)
    run = execute(matrix, folders)
    assert journal()[0] == "first" and journal()[-1] == "last" and len(journal()) == 4
    assert not run.failed and value(last, folders) == 5  # 1 + (1 + 1) + (1 + 1)
    pids = {result.load(stage.folder(folders.runs)).metrics["pid"] for stage in matrix.stages}
    assert len(pids) == 1

    execute(matrix, folders)
    assert len(journal()) == 4, "a finished matrix runs nothing"


def test_starts_the_longest_path_first(folders, make, journal):
    short = make("short")
    long = make("long")
    end = make("end", make("middle", long))
    middle = end.needs["need_0"]
    execute(matrix_of(short, long, middle, end), folders)
    assert journal() == ["long", "middle", "short", "end"]


def test_a_failed_stage_blocks_only_those_that_need_it_and_is_tried_again(
    folders, make, journal, tmp_path
):
    cure = tmp_path / "cured"
    broken = make("broken", fail=str(cure))
    after, other = make("after", broken), make("other")
    matrix = matrix_of(broken, after, other)
    run = execute(matrix, folders)
    assert sorted(journal()) == ["broken", "other"]
    assert list(run.failed) == [broken.key] and run.failed[broken.key] == "ZeroDivisionError: a bug"
    assert [stage.name for stage in run.blocked] == ["rank/after"]
    error = (broken.folder(folders.runs) / "error.txt").read_text()
    assert error.startswith("Traceback") and 'raise ZeroDivisionError("a bug")' in error

    cure.touch()
    assert not execute(matrix, folders).failed
    assert value(after, folders) == 2
    assert not (broken.folder(folders.runs) / "error.txt").exists()
    assert sorted(journal()) == ["after", "broken", "broken", "other"]


def test_a_stage_whose_folder_is_refused_fails_alone(folders, make, journal):
    runs = make("runs", sleep_s=0.5)
    refused = make("refused", kind="transfer")
    after = make("after", refused, kind="evaluate")
    refused.folder(folders.runs).parent.mkdir(parents=True)
    refused.folder(folders.runs).touch()
    with local.open(LauncherSettings(folders, 2, "cpu", "tests.helpers.fake_stages")) as launcher:
        run = Run(matrix_of(runs, refused, after), folders, launcher, SOON)
        told = [(event.what, event.stage.name) for event in run.events() if event.stage]
    assert told == [
        ("failed", "transfer/refused"),
        ("started", "rank/runs"),
        ("done", "rank/runs"),
    ] and journal() == ["runs"]
    assert run.failed == {refused.key: f"A file is in the way: {refused.folder(folders.runs)}"}
    assert [stage.name for stage in run.blocked] == ["evaluate/after"]


def test_a_persons_mistake_in_a_stage_has_no_traceback(folders, make):
    stage = make("mistaken", mistake=True)
    run = execute(matrix_of(stage), folders)
    assert run.failed[stage.key] == "There is no such image."
    assert (
        stage.folder(folders.runs) / "error.txt"
    ).read_text() == "There is no such image.\nLook again.\n"


def test_a_worker_that_is_killed_fails_its_stage_and_is_replaced(folders, make, journal, tmp_path):
    cure = tmp_path / "cured"
    killed, others = make("killed", kill=str(cure)), [make(f"other{index}") for index in range(3)]
    matrix = matrix_of(killed, *others)
    run = execute(matrix, folders)
    assert sorted(journal()) == ["killed"] * 3 + ["other0", "other1", "other2"] and list(
        run.failed
    ) == [killed.key]
    said = (killed.folder(folders.runs) / "error.txt").read_text()
    assert "SIGKILL (the system does that when memory runs out)" in said and "doctor" not in said
    assert not lock.is_held(killed.folder(folders.runs))
    cure.touch()
    assert not execute(matrix, folders).failed


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_a_crash_of_native_code_names_its_signal_and_what_checks_for_it(folders, make, name):
    crashed = make("crashed", crash=name)
    run = execute(matrix_of(crashed), folders)
    said = run.failed[crashed.key]
    assert f"was killed by {name} (" in said and "`harness doctor`" in said and "memory" not in said
    assert said in (crashed.folder(folders.runs) / "error.txt").read_text()


def test_what_was_lost_or_ran_out_of_memory_is_tried_again_in_the_same_run(folders, make, journal):
    lost, greedy = make("lost", kill_times=1), make("greedy", out_of_memory_times=2)
    run = execute(matrix_of(lost, greedy), folders)
    assert not run.failed and sorted(journal()) == ["greedy"] * 3 + ["lost"] * 2
    assert result.load(lost.folder(folders.runs)).retries == {"lost": 1}
    assert result.load(greedy.folder(folders.runs)).retries == {"out_of_memory": 2}
    assert not (greedy.folder(folders.runs) / "error.txt").exists()
    crowded = make("crowded", no_room_times=1, no_map_times=2)
    assert not execute(matrix_of(crowded), folders).failed
    assert result.load(crowded.folder(folders.runs)).retries == {"out_of_memory": 2}

    hopeless = make("hopeless", out_of_memory_times=9)
    run = execute(matrix_of(hopeless), folders)
    assert journal().count("hopeless") == 3 and "out of memory" in run.failed[hopeless.key]
    assert "out of memory" in (hopeless.folder(folders.runs) / "error.txt").read_text()


def test_a_preempted_stage_saves_and_goes_on_in_the_same_run(folders, make, journal):
    """A scheduler ends the worker and not the run: as often as it likes."""
    stage = make("preempted", sleep_s=1.5)
    folder = stage.folder(folders.runs)
    with local.open(LauncherSettings(folders, 1, "cpu", "tests.helpers.fake_stages")) as launcher:
        run, told = Run(matrix_of(stage), folders, launcher, RetryPolicy(max_retries=0, first_wait_s=0.05)), 0
        for _ in run.events():
            if (
                told < 2
                and json_of(folder / "progress.json").get("done", -1) >= 3 * (told + 1)
                and launcher.slots[0].process
            ):
                launcher.slots[0].process.send_signal(signal.SIGTERM)
                told += 1
    found = result.load(folder)
    assert (
        told == 2
        and not run.failed
        and found.retries["preempted"] >= 1
        and found.metrics["resumed_at"] >= 3
    )


def test_all_output_of_a_stage_goes_to_its_log(folders, make):
    stage, after = make("loud"), make("louder")
    execute(matrix_of(stage, after), folders)
    for one in (stage, after):
        lines = (one.folder(folders.runs) / "log.txt").read_text().splitlines()
        name = one.config["name"]
        assert sorted(lines) == sorted([f"this is {name}", f"child of {name}"])


def test_a_result_says_what_it_was_computed_with(folders, make):
    stage = make("one")
    execute(matrix_of(stage), folders)
    found = result.load(stage.folder(folders.runs))
    assert found.environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found.environment["packages"]["numpy"] and found.environment["cpu"]
    assert found.environment["device"] == "cpu" and found.environment["num_threads"] >= 1
    assert (
        found.key == stage.key and found.config == stage.config and found.timing == {"slept_s": 0}
    )


def test_files_that_are_gone_are_made_again_only_for_stages_that_need_them(folders, make, journal):
    """`pretrain` leaves model.pt; the fake one does not, as if someone had deleted it."""
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
    assert [run.wait(60) for run in runs] == [0, 0]
    assert sorted(journal()) == sorted(stage.config["name"] for stage in (*stages, broken, last))


def test_what_another_run_has_just_failed_at_is_not_tried_again(folders, make, journal):
    """Also where that failed between our look at the folder and our worker's start."""
    stage = make("failed")
    folder = stage.folder(folders.runs)
    began_at = begin(folders)
    prepare(stage, folder)
    while (
        stage_state.failed_since(folder, began_at) is None
    ):  # file systems' clocks tick every few milliseconds
        (folder / "error.txt").write_text("the other run's words")
    line = [
        sys.executable,
        "-m",
        "harness.runner.worker",
        str(folder),
        "--data-dir",
        str(folders.data),
        "--stages-package",
        "tests.helpers.fake_stages",
        "--began-at",
        repr(began_at),
    ]
    assert subprocess.run(line).returncode == 75 and journal() == []
    with local.open(
        LauncherSettings(folders, 1, "cpu", "tests.helpers.fake_stages", began_at=began_at)
    ) as launcher:
        run = Run(matrix_of(stage), folders, launcher, SOON)
        assert [event.what for event in run.events()] == ["failed"] and list(
            run.failed.values()
        ) == ["the other run's words"]
    assert not execute(matrix_of(stage), folders).failed, "a run that begins later tries"


def test_ctrl_c_lets_stages_save_and_the_next_run_goes_on(folders, make, tmp_path):
    stages = [make(f"sleeper{index}", sleep_s=3) for index in range(2)]
    script = write_script(tmp_path, folders, stages)
    run = subprocess.Popen([sys.executable, script, "2"], start_new_session=True)
    steps = [stage.folder(folders.runs) / "progress.json" for stage in stages]
    wait_for(
        lambda: all(path.exists() and json.loads(path.read_text())["done"] >= 4 for path in steps)
    )
    run.send_signal(signal.SIGINT)
    assert run.wait(20) == 130
    assert not any(stage_state.has_result(stage.folder(folders.runs)) for stage in stages)
    assert not any((stage.folder(folders.runs) / "error.txt").exists() for stage in stages)
    assert not execute(matrix_of(*stages), folders, 2).failed
    for stage in stages:
        assert result.load(stage.folder(folders.runs)).metrics["resumed_at"] >= 4


def test_no_process_outlives_a_killed_run(folders, make, tmp_path):
    """SIGKILL leaves the executor no word to say: its workers see their input end."""
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


def test_a_worker_that_is_orphaned_at_its_start_begins_nothing_that_lasts(folders, make):
    """Whoever gave the order died before the worker had imported anything: the order and the end of its input come at once."""
    stage = make("sleeper", sleep_s=60)
    folder = stage.folder(folders.runs)
    prepare(stage, folder)
    line = LauncherSettings(folders, 1, "cpu", "tests.helpers.fake_stages").worker_command("cpu", 1)
    subprocess.run(line, input=request_line(folder, shares_gpu=False), timeout=15)
    assert not stage_state.has_result(folder) and not lock.is_held(folder)


def test_leaving_kills_a_stage_that_does_not_listen_and_what_it_started(folders, make, tmp_path):
    child_file = tmp_path / "child"
    stage = make("deaf", sleep_s=60, deaf=True, spawn=str(child_file))
    with local.open(LauncherSettings(folders, 1, "cpu", "tests.helpers.fake_stages")) as launcher:
        run = Run(matrix_of(stage), folders, launcher)
        events = run.events()
        wait_for(lambda: next(events) and child_file.exists() and child_file.read_text())
        run.stop(grace_s=0.2)
    assert not lock.is_held(stage.folder(folders.runs))
    child = int(child_file.read_text())
    wait_for(lambda: not is_alive(child))


def test_one_stage_by_hand(folders, make):
    stage = make("alone")
    folder = stage.folder(folders.runs)
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps(stage.describe()))
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
    assert subprocess.run(line, capture_output=True).returncode == 0
    assert value(stage, folders) == 1
    broken = make("broken", mistake=True)
    folder = broken.folder(folders.runs)
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(json.dumps(broken.describe()))
    line[3] = str(folder)
    ended = subprocess.run(line, capture_output=True, text=True)
    assert (
        ended.returncode == 1
        and "There is no such image." in ended.stderr
        and "Traceback" not in ended.stderr
    )


def test_slots_share_the_cores(folders, monkeypatch):
    monkeypatch.setattr(local.environment, "num_cores", lambda: 16)
    monkeypatch.setattr(local.environment, "gpu_names", lambda: ["H200", "H200"])
    monkeypatch.setattr(local, "has_utilization", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [(slot.num_threads, slot.gpu) for slot in local.slots(LauncherSettings(folders))] == [
        (8, "0"),
        (8, "1"),
        (4, None),
    ]
    on_cpu = local.slots(LauncherSettings(folders, device="cpu"))
    assert [(slot.num_threads, slot.gpu) for slot in on_cpu] == [(4, None)] * 4
    assert [slot.gpu for slot in local.slots(LauncherSettings(folders, 1))] == ["0", None]
    assert [slot.gpu for slot in local.slots(LauncherSettings(folders, 3, jobs_per_gpu=2))] == [
        "0",
        "1",
        "0",
        None,
    ]
    with pytest.raises(UserError, match="only 2 stages run side by side"):
        local.slots(LauncherSettings(folders, 3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [slot.gpu for slot in local.slots(LauncherSettings(folders))] == ["3", "5", None]
    packed = local.slots(LauncherSettings(folders, jobs_per_gpu=3))
    assert [(slot.num_threads, slot.gpu) for slot in packed[:-1]] == [
        (2, "3"),
        (2, "5"),
    ] * 3 and packed[-1].low_priority
    launcher = local.LocalLauncher(LauncherSettings(folders), packed)
    for slot in packed[:-1]:
        slot.running = Path("stages/transfer/busy")
    assert (
        launcher.num_slots == 6
        and launcher.can_start(Stage("write", {}))
        and not launcher.can_start(Stage("transfer", {}))
    )
    monkeypatch.setattr(local.environment, "gpu_names", list)
    monkeypatch.setattr(local.environment, "num_cores", lambda: 2)
    assert [(slot.num_threads, slot.gpu) for slot in local.slots(LauncherSettings(folders))] == [
        (1, None)
    ] * 2


def test_slots_have_cores_of_their_own(folders, monkeypatch):
    monkeypatch.setattr(local.environment, "num_cores", lambda: 8)
    monkeypatch.setattr(local.environment, "cores", lambda: list(range(10, 18)))
    monkeypatch.setattr(local.environment, "gpu_names", list)
    cores = [slot.cores for slot in local.slots(LauncherSettings(folders, 3))]
    assert cores == [(10, 11), (12, 13), (14, 15)]
    assert not any(slot.cores for slot in local.slots(LauncherSettings(folders, 16))), (
        "more slots than cores share them"
    )
    monkeypatch.setattr(local.environment, "num_cores", lambda: 4)
    assert not any(slot.cores for slot in local.slots(LauncherSettings(folders, 2))), (
        "a quota is of no core in particular"
    )
    for settings in (
        LauncherSettings(folders, jobs_per_gpu=2),
        LauncherSettings(folders, device="cuda"),
    ):
        with pytest.raises(UserError, match="no GPU"):
            local.slots(settings)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be shared out")
def test_a_worker_stays_on_its_cores(folders, make):
    stages = [make(f"stage{index}", sleep_s=0.5) for index in range(2)]
    own = sorted(os.sched_getaffinity(0))[:2]
    slots = [local.Slot(index, 1, None, (own[index],)) for index in range(2)]
    with local.LocalLauncher(
        LauncherSettings(folders, 2, "cpu", "tests.helpers.fake_stages"), slots
    ) as launcher:
        for _ in Run(matrix_of(*stages), folders, launcher).events():
            pass
    found = [result.load(stage.folder(folders.runs)).metrics["cores"] for stage in stages]
    assert sorted(found) == [[own[0]], [own[1]]]


SCRIPT = """
import json, sys
sys.path[:0] = {path!r}
from pathlib import Path
from tests.runner.test_executor import execute, matrix_of
from harness.runner.executor import Run, begin
from harness.system.folders import Folders
from harness.runner.launcher import LauncherSettings, request_line
from harness.runner.launchers import local
from harness.matrix.stage import Stage
stages = {{}}
for told in json.loads(Path({file!r}).read_text()):
    needs = {{role: stages[need["key"]] for role, need in told["needs"].items()}}
    stages[told["key"]] = Stage(told["kind"], told["config"], needs, told["axes"], told["name"])
folders = Folders(*map(Path, {folders!r}))
settings = LauncherSettings(folders, int(sys.argv[1]), "cpu", "tests.helpers.fake_stages", began_at=begin(folders))
with local.open(settings) as launcher:
    run = Run(matrix_of(*stages.values()), folders, launcher)
    try:
        for _ in run.events():
            pass
    except KeyboardInterrupt:
        run.stop(10)
        sys.exit(130)
"""


def write_script(tmp_path: Path, folders: Folders, stages: list[Stage]) -> str:
    """A program that runs these stages: `harness run` without a recipe."""
    told, script = tmp_path / "stages.json", tmp_path / "run.py"
    told.write_text(json.dumps([stage.describe() for stage in stages]))
    script.write_text(
        SCRIPT.format(
            path=[str(ROOT)],
            file=str(told),
            folders=[str(folders.data), str(folders.raw), str(folders.runs)],
        )
    )
    return str(script)


def json_of(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def wait_for(condition: Callable[[], Any], at_most_s: float = 30) -> None:
    deadline = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
