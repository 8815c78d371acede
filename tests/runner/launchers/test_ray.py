"""Ray launcher on a cluster of two nodes on this machine, one of which is removed during the run.

pytest tests/runner/launchers/test_ray.py --kill-nodes 6    remove six nodes in turn
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.matrix.stage import Stage
from harness.runner.executor import Run
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import ray as ray_launcher
from harness.runner.retry import RetryPolicy
from harness.system.folders import Folders
from tests.helpers import ROOT
from tests.helpers.execution import LOOPBACK, load_result, matrix_of, settings_for, wait_for
from writers import lease
from writers.errors import UserError


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a cluster of a head and a second node, with one CPU each."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'harness[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        cluster.second = cluster.add_node(**size)
        yield cluster
        cluster.shutdown()


def open_launcher(cluster: Any, folders: Folders) -> ray_launcher.RayLauncher:
    """Open a launcher with one thread per stage on the cluster."""
    return ray_launcher.open(
        settings_for(folders, None, num_threads=1), ray_launcher.Options(address=cluster.address)
    )


def test_workers_are_forked_from_a_process_that_is_reused(
    cluster: Any, folders: Folders, make: Callable[..., Stage]
):
    stages = [make("forked0")]
    for index in range(1, 6):
        stages.append(make(f"forked{index}", stages[-1]))
    with open_launcher(cluster, folders) as launcher:
        run = Run(matrix_of(*stages), folders, launcher)
        for _ in run.events():
            pass
    ran = [load_result(stage, folders).metrics for stage in stages]
    assert all(record["is_forked"] for record in ran)
    assert len({record["pid"] for record in ran}) == 6
    assert len({record["parent"] for record in ran}) < 6


def test_stages_run_as_tasks_and_those_of_a_dead_node_are_retried(
    cluster: Any, folders: Folders, make: Callable[..., Stage], tmp_path: Path
):
    first, is_retried = make("first"), tmp_path / "is_retried"
    long = [make(f"long{index}", first, until=str(is_retried)) for index in range(2)]
    broken = make("broken", mistake=True)
    last = make("last", *long)
    stages = (first, broken, *long, last)
    removed = False
    with open_launcher(cluster, folders) as launcher:
        assert launcher.num_slots == 2
        run = Run(matrix_of(*stages), folders, launcher, RetryPolicy(first_wait_s=0.1))
        for event in run.events():
            if event.what == "retry":
                is_retried.touch()
            running = [
                stage for stage in long if (stage.folder(folders.runs) / "progress.json").exists()
            ]
            if not removed and len(running) == 2:
                cluster.remove_node(cluster.second, allow_graceful=False)
                removed = True
    assert removed and list(run.failed.values()) == ["There is no such image."]
    results = [load_result(stage, folders) for stage in (first, *long, last)]
    assert [record.metrics["value"] for record in results] == [1, 2, 2, 5]
    assert sum(record.retries.get("lost", 0) for record in results) >= 1
    assert not any(lease.is_held(stage.folder(folders.runs)) for stage in stages)


def test_nodes_killed_at_random_moments_do_not_change_the_numbers(
    cluster: Any,
    folders: Folders,
    make: Callable[..., Stage],
    tmp_path: Path,
    request: pytest.FixtureRequest,
):
    """Each killed node is replaced by another."""
    num_kills = request.config.getoption("--kill-nodes", None)
    if not num_kills:
        pytest.skip("takes minutes: use --kill-nodes N")
    rng = random.Random(5)
    first = make("first")
    middle = [make(f"middle{index}", first, sleep_s=3) for index in range(4 * num_kills)]
    stages = (first, *middle, make("last", *middle))
    records = {stage.key: stage.folder(folders.runs) / "result.json" for stage in stages}
    seen: dict[str, tuple[int, int]] = {}
    second, num_killed = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20), 0
    with open_launcher(cluster, folders) as launcher:
        run = Run(
            matrix_of(*stages),
            folders,
            launcher,
            RetryPolicy(max_retries=num_kills, first_wait_s=0.1),
        )
        kill_at = time.monotonic() + rng.uniform(1, 6)
        for _ in run.events():
            seen |= {
                key: _written(record)
                for key, record in records.items()
                if key not in seen and record.exists()
            }
            if num_killed < num_kills and time.monotonic() > kill_at:
                cluster.remove_node(second, allow_graceful=False)
                num_killed += 1
                second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
                kill_at = time.monotonic() + rng.uniform(1, 6)
    cluster.remove_node(second)
    assert num_killed == num_kills and not run.failed
    results = [load_result(stage, folders) for stage in stages]
    assert [record.metrics["value"] for record in results] == [
        1,
        *[2] * len(middle),
        1 + 2 * len(middle),
    ]
    assert seen == {key: _written(record) for key, record in records.items()}, (
        "no stage was finished twice"
    )
    assert not any(lease.is_held(stage.folder(folders.runs)) for stage in stages)
    wait_for(lambda: not _processes_of(tmp_path))
    attempts = len((tmp_path / "journal.txt").read_text().split())
    print(
        f"{num_kills} nodes killed; {len(stages)} stages in {attempts} attempts, "
        f"{sum(record.retries.get('lost', 0) for record in results)} lost"
    )


def _written(record: Path) -> tuple[int, int]:
    """Return inode and modification time, which differ after each write."""
    stat = record.stat()
    return stat.st_ino, stat.st_mtime_ns


def _processes_of(folder: Path) -> list[int]:
    """List processes with an open file in the folder; every stage has its lock and log open."""
    pids = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(folder):
                pids.add(int(link.parts[2]))
    return sorted(pids)


def test_stop_lets_stages_save(cluster: Any, folders: Folders, make: Callable[..., Stage]):
    stage = make("sleeper", sleep_s=60)
    folder = stage.folder(folders.runs)
    with open_launcher(cluster, folders) as launcher:
        run = Run(matrix_of(stage), folders, launcher)
        for _ in run.events():
            if (folder / "progress.json").exists():
                break
        run.stop(240)
        assert not run.running
    deadline = time.monotonic() + 240
    while lease.is_held(folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert int((folder / "steps.txt").read_text()) >= 0 and not (folder / "error.txt").exists()


def test_two_processes_of_a_stage_run_in_one_task(
    cluster: Any, folders: Folders, make: Callable[..., Stage]
):
    shared, alone = make("shared", kind="evaluate"), make("alone")
    settings = settings_for(folders, None, num_threads=1, gpus_per_stage=2)
    with ray_launcher.open(settings, ray_launcher.Options(address=cluster.address)) as launcher:
        run = Run(matrix_of(shared, alone), folders, launcher, RetryPolicy(max_retries=0))
        for _ in run.events():
            pass
    assert not run.failed
    assert load_result(shared, folders).metrics["num_processes"] == 2
    assert load_result(alone, folders).metrics["num_processes"] == 1


class Nodes:
    """Fake of the module ray, for a cluster of nodes with these numbers of GPUs."""

    def __init__(self, *num_gpus: int) -> None:
        self.num_gpus = num_gpus

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 16.0 * len(self.num_gpus), "GPU": float(sum(self.num_gpus))}

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"CPU": 16.0, "GPU": float(number)}}
            for number in self.num_gpus
        ]

    def remote(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


def test_the_gpus_of_a_stage_are_in_one_machine(folders: Folders):
    settings = LauncherSettings(folders, device="cuda", gpus_per_stage=4)
    assert ray_launcher.RayLauncher(settings, Nodes(8, 7, 3)).num_slots == 3
    with pytest.raises(UserError, match="no machine of the Ray cluster has more than 3 GPUs"):
        ray_launcher.RayLauncher(settings, Nodes(3, 3))
    with pytest.raises(UserError, match="exclude each other"):
        ray_launcher.RayLauncher(replace(settings, jobs_per_gpu=2), Nodes(8))
    alone = replace(settings, gpus_per_stage=1, jobs_per_gpu=2)
    assert ray_launcher.RayLauncher(alone, Nodes(8, 3)).num_slots == 22


def test_a_missing_ray_is_a_user_error(folders: Folders, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="needs the package ray"):
        ray_launcher.open(settings_for(folders))


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Listen on a port without ever answering."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_cluster_that_does_not_respond_is_reported(
    folders: Folders, silent_port: int, monkeypatch: pytest.MonkeyPatch
):
    """ray.init alone would wait for minutes."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'harness[ray]'")
    monkeypatch.setattr(ray_launcher, "CONNECT_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed_port = server.getsockname()[1]
    for port in (closed_port, silent_port):
        with pytest.raises(UserError, match=f"127.0.0.1:{port} does not respond"):
            ray_launcher.open(
                settings_for(folders), ray_launcher.Options(address=f"127.0.0.1:{port}")
            )


LISTENERS = """
import json, os, sys
from pathlib import Path
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import ray as ray_launcher
from harness.system.folders import Folders
from tests.helpers.execution import listening_addresses, workers_of

folder = Path(sys.argv[1])
settings = LauncherSettings(Folders(folder, folder, folder), num_threads=1)
with ray_launcher.open(settings) as launcher:
    listening = listening_addresses([os.getpid(), *workers_of(os.getpid())])
    gcs = launcher.ray.get_runtime_context().gcs_address
print(json.dumps({"gcs": gcs, "listening": sorted(listening)}))
"""


def test_without_an_address_ray_starts_a_cluster_on_loopback(cluster: Any, tmp_path: Path):
    """Another cluster on this machine is not used, even if RAY_ADDRESS names it."""
    ended = subprocess.run(
        [sys.executable, "-c", LISTENERS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=240,
    )
    outcome = json.loads(ended.stdout.splitlines()[-1])
    assert outcome["gcs"].startswith("127.0.0.1:") and outcome["gcs"] != cluster.address
    assert outcome["listening"] and set(outcome["listening"]) <= LOOPBACK
