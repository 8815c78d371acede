"""Forked workers: imports, environment, exit codes, and behavior after the server has died."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.matrix.stage import Stage
from harness.runner import remote, result
from harness.runner.executor import Run, prepare
from harness.runner.fork_server import (
    ForkedWorker,
    ForkServer,
    SpawnedWorker,
    is_supported,
    wait_for_killed,
)
from harness.runner.launchers import local
from harness.runner.protocol import request_line
from harness.system.folders import Folders
from tests.helpers.execution import is_alive, matrix_of, settings_for, wait_for

pytestmark = pytest.mark.skipif(not is_supported(), reason="requires pidfd_open")


@pytest.fixture
def server():
    with ForkServer() as server:
        yield server


def a_stage(tmp_path: Path, name: str, kind: str = "rank", **config) -> Stage:
    return Stage(
        kind, {"name": name, "journal": str(tmp_path / "journal.txt"), **config}, name=name
    )


def worker(
    server: ForkServer,
    tmp_path: Path,
    module: str = "tests.helpers.fake_stages.rank.run",
    **environment: str,
) -> ForkedWorker:
    folders = Folders(tmp_path, tmp_path, tmp_path)
    return server.fork(
        module,
        settings_for(folders).worker_command("cpu", 1),
        environment,
    )


def run_stage(stage: Stage, worker: ForkedWorker, tmp_path: Path) -> dict:
    """Run the stage in the worker and return its metrics."""
    folder = stage.folder(tmp_path / "runs")
    prepare(stage, folder)
    worker.stdin.write(request_line(folder, shares_gpu=False))
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline())["status"] == "done"
    return result.load(folder).metrics


def test_waiting_for_a_process_that_does_not_end_has_a_limit():
    """A process that waits for a file server may not end for long after SIGKILL."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        assert wait_for_killed(process, limit_s=0.05) is None
    finally:
        process.kill()
    assert wait_for_killed(process) == -signal.SIGKILL


def test_a_worker_that_closes_its_output_and_stays_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "ENDED_S", 0.1)
    (tmp_path / remote.FILE_NAME).write_text("{}")
    stays = "import os, time; os.close(1); time.sleep(600)"
    command = (sys.executable, "-c", stays)
    request = remote.WorkerRequest(tmp_path, command, "none", 1, False, False)
    attempt = remote.RemoteAttempt(request)
    answer = attempt.run()
    assert answer["status"] == "failed" and answer["cause"] == "lost"
    assert attempt.process is not None and not is_alive(attempt.process.pid)


def test_a_forked_worker_runs_stages_and_ends_with_its_stdin(server, tmp_path):
    started = worker(server, tmp_path)
    assert started.imported == {"tests.helpers.fake_stages.rank.run"}
    for index in range(2):
        assert (
            run_stage(a_stage(tmp_path, f"stage{index}"), started, tmp_path)["pid"] == started.pid
        )
    assert os.getpgid(started.pid) == started.pid, "killing its group also ends its children"
    assert not started.has_ended()
    started.stdin.close()
    wait_for(started.has_ended)
    assert started.wait() == 75


def test_a_killed_worker_keeps_its_pid_until_it_is_reaped(server, tmp_path):
    started, other = worker(server, tmp_path), worker(server, tmp_path)
    os.kill(started.pid, signal.SIGKILL)
    wait_for(started.has_ended)
    assert Path(f"/proc/{started.pid}/stat").read_text().split()[2] == "Z"
    assert started.wait() == -signal.SIGKILL
    assert not Path(f"/proc/{started.pid}").exists()
    run_stage(a_stage(tmp_path, "stage"), other, tmp_path)  # after this, the worker handles SIGTERM
    other.send_signal(signal.SIGTERM)
    assert other.wait() == 75


def test_a_worker_has_its_own_environment(server, tmp_path):
    names = ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"]
    environments = [
        {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "0"},
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "1"},
    ]
    started = [worker(server, tmp_path, **environment) for environment in environments]
    for index, forked in enumerate(started):
        stage = a_stage(tmp_path, f"stage{index}", tell_environment=names)
        assert run_stage(stage, forked, tmp_path)["environment"] == environments[index]


def test_a_fork_that_cannot_use_cuda_executes_a_new_interpreter(server, tmp_path):
    """The pid and the pipes stay the same. Workers without a GPU stay forks."""

    def command(of: ForkedWorker) -> str:
        return Path(f"/proc/{of.pid}/cmdline").read_text().replace("\0", " ")

    sound = worker(server, tmp_path, "tests.helpers.fake_stages.rank.run", CUDA_VISIBLE_DEVICES="0")
    without = worker(
        server, tmp_path, "tests.helpers.fake_stages.spoiled.run", CUDA_VISIBLE_DEVICES=""
    )
    spoiled = worker(
        server, tmp_path, "tests.helpers.fake_stages.spoiled.run", CUDA_VISIBLE_DEVICES="0"
    )
    for index, started in enumerate((sound, without, spoiled)):
        assert (
            run_stage(a_stage(tmp_path, f"stage{index}"), started, tmp_path)["pid"] == started.pid
        )
    assert "--serve" in command(spoiled)
    assert "--fork-server" in command(sound) and "--fork-server" in command(without)


def test_prepared_modules_are_imported_before_the_next_fork(server, tmp_path):
    server.prepare(["tests.helpers.fake_stages.evaluate.run", "no_such_module"], {})
    wait_for(
        lambda: (
            worker(server, tmp_path).imported
            == {
                "tests.helpers.fake_stages.rank.run",
                "tests.helpers.fake_stages.evaluate.run",
                "no_such_module",
            }
        )
    )


def test_the_server_ends_with_its_launcher(tmp_path):
    code = (
        "from harness.runner.fork_server import ForkServer\nimport os, signal\n"
        "server = ForkServer()\nprint(server._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    wait_for(lambda: not is_alive(int(ended.stdout)))


def test_without_a_server_workers_are_spawned(tmp_path):
    """Workers continue after the server is killed; the next worker is a new interpreter."""
    first, second = (
        a_stage(tmp_path, "first", sleep_s=0.5),
        a_stage(tmp_path, "second", kind="evaluate"),
    )
    folders = Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")
    with local.open(settings_for(folders)) as launcher:
        run = Run(matrix_of(first, second), folders, launcher)
        for event in run.events():
            if event.what == "started" and event.stage is first:
                assert isinstance(launcher.slots[0].process, ForkedWorker)
                launcher.fork_server._process.kill()
        assert launcher.fork_server is None and isinstance(launcher.slots[0].process, SpawnedWorker)
    assert not run.failed and (tmp_path / "journal.txt").read_text().split() == ["first", "second"]


def test_importing_all_stages_does_not_initialize_cuda():
    """Otherwise torch would refuse CUDA in each fork, because its parent has initialized CUDA."""
    code = (
        "import importlib, os, sys\nfrom writers import names\n"
        "for name in names.names('harness.stages'):\n"
        "    importlib.import_module(f'harness.stages.{name}.run')\n"
        "import torch\nassert not torch.cuda.is_initialized()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    os._exit(1 if torch.cuda._is_in_bad_fork() else 0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
