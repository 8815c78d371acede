"""The ray launcher on a real cluster of two nodes on this machine, one of which is taken away while it works.

pytest tests/runner/launchers/test_ray.py --kill-nodes 6    takes away six, one after another
"""

import contextlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.matrix.expand import Matrix
from harness.matrix.stage import Stage
from harness.runner import lease, result
from harness.runner.executor import Run
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import ray as ray_launcher
from harness.runner.retry import Policy
from harness.system.folders import Folders
from tests.helpers import ROOT
from tests.runner.test_executor import wait_for
from writers.errors import UserError


def make(tmp_path: Path, name: str, *needs: Stage, **config: Any) -> Stage:
    return Stage(
        "rank",
        {"name": name, "journal": str(tmp_path / "journal.txt"), **config},
        {f"need_{index}": need for index, need in enumerate(needs)},
        {},
        f"rank/{name}",
    )


def matrix_of(*stages: Stage) -> Matrix:
    return Matrix(None, stages)  # type: ignore[arg-type]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a second node, of one CPU each."""
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


def settings_for(cluster: Any, folders: Folders) -> LauncherSettings:
    return LauncherSettings(
        folders,
        None,
        "cpu",
        "tests.helpers.fake_stages",
        num_threads=1,
        options={"address": cluster.address},
    )


def test_workers_are_forked_from_a_process_that_stays(
    cluster: Any, folders: Folders, tmp_path: Path
):
    stages = [make(tmp_path, "forked0")]
    for index in range(1, 6):
        stages.append(make(tmp_path, f"forked{index}", stages[-1]))
    with ray_launcher.open(settings_for(cluster, folders)) as launcher:
        run = Run(matrix_of(*stages), folders, launcher)
        for _ in run.events():
            pass
    ran = [result.load(stage.folder(folders.runs)).metrics for stage in stages]
    assert all(one["is_forked"] for one in ran)
    assert len({one["pid"] for one in ran}) == 6 and len({one["parent"] for one in ran}) < 6


def test_stages_run_as_tasks_and_a_dead_nodes_stage_is_run_again(
    cluster: Any, folders: Folders, tmp_path: Path
):
    first = make(tmp_path, "first")
    long = [make(tmp_path, f"long{index}", first, sleep_s=3) for index in range(2)]
    broken = make(tmp_path, "broken", mistake=True)
    last = make(tmp_path, "last", *long)
    stages = (first, broken, *long, last)
    removed = False
    with ray_launcher.open(settings_for(cluster, folders)) as launcher:
        assert launcher.num_slots == 2
        run = Run(matrix_of(*stages), folders, launcher, Policy(first_wait_s=0.1))
        for _ in run.events():
            running = [
                stage for stage in long if (stage.folder(folders.runs) / "progress.json").exists()
            ]
            if not removed and len(running) == 2:
                cluster.remove_node(cluster.second, allow_graceful=False)
                removed = True
    assert removed and list(run.failed.values()) == ["There is no such image."]
    results = [result.load(stage.folder(folders.runs)) for stage in (first, *long, last)]
    assert [one.metrics["value"] for one in results] == [1, 2, 2, 5]
    assert sum(one.retries.get("lost", 0) for one in results) >= 1
    assert not any(lease.is_held(stage.folder(folders.runs)) for stage in stages)


def test_nodes_killed_at_random_moments_leave_the_numbers_as_they_were(
    cluster: Any, folders: Folders, tmp_path: Path, request: pytest.FixtureRequest
):
    """Each time another node takes the dead one's place."""
    num_kills = request.config.getoption("--kill-nodes", None)
    if not num_kills:
        pytest.skip("takes minutes: say --kill-nodes N")
    rng = random.Random(5)
    first = make(tmp_path, "first")
    middle = [make(tmp_path, f"middle{index}", first, sleep_s=3) for index in range(4 * num_kills)]
    stages = (first, *middle, make(tmp_path, "last", *middle))
    records = {stage.key: stage.folder(folders.runs) / "result.json" for stage in stages}
    seen: dict[str, tuple[int, int]] = {}
    second, num_killed = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20), 0
    with ray_launcher.open(settings_for(cluster, folders)) as launcher:
        run = Run(matrix_of(*stages), folders, launcher, Policy(most=num_kills, first_wait_s=0.1))
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
    results = [result.load(stage.folder(folders.runs)) for stage in stages]
    assert [one.metrics["value"] for one in results] == [1, *[2] * len(middle), 1 + 2 * len(middle)]
    assert seen == {key: _written(record) for key, record in records.items()}, (
        "no stage was run twice to completion"
    )
    assert not any(lease.is_held(stage.folder(folders.runs)) for stage in stages)
    wait_for(lambda: not _processes_of(tmp_path))
    attempts = len((tmp_path / "journal.txt").read_text().split())
    print(
        f"{num_kills} nodes killed; {len(stages)} stages in {attempts} attempts, "
        f"{sum(one.retries.get('lost', 0) for one in results)} lost"
    )


def _written(record: Path) -> tuple[int, int]:
    """Other numbers after each writing."""
    stat = record.stat()
    return stat.st_ino, stat.st_mtime_ns


def _processes_of(folder: Path) -> list[int]:
    """Processes that have a file in the folder open, as a stage has its lock and its log."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(folder):
                found.add(int(link.parts[2]))
    return sorted(found)


def test_stop_lets_stages_save(cluster: Any, folders: Folders, tmp_path: Path):
    stage = make(tmp_path, "sleeper", sleep_s=60)
    folder = stage.folder(folders.runs)
    with ray_launcher.open(settings_for(cluster, folders)) as launcher:
        run = Run(matrix_of(stage), folders, launcher)
        for _ in run.events():
            if (folder / "progress.json").exists():
                break
        run.stop(15)
        assert not run.running
    deadline = time.monotonic() + 15
    while lease.is_held(folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert int((folder / "steps.txt").read_text()) >= 0 and not (folder / "error.txt").exists()


def test_without_ray_a_clear_message(folders: Folders, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="needs the package ray"):
        ray_launcher.open(LauncherSettings(folders))


def test_a_cluster_that_is_not_there(folders: Folders):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'harness[ray]'")
    with pytest.raises(UserError, match="has no option partition"):
        ray_launcher.open(LauncherSettings(folders, options={"partition": "gpu"}))
