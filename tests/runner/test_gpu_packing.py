"""Stages that share a GPU: how their GPU use is measured, and which stages may start together.

The tests need no GPU.
"""

import argparse
import io
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.matrix.stage import Stage
from harness.runner import gpu_packing, result, run_stage
from harness.runner.executor import prepare
from harness.runner.gpu_packing import MAX_UTILIZATION, GpuSharing, GpuUse, resource_key
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.runner.remote import WorkerRequest
from harness.runner.slots import Slot
from harness.system import environment
from harness.system.folders import Folders


@pytest.fixture
def launcher(folders: Folders, monkeypatch: pytest.MonkeyPatch):
    """Return a launcher with four slots on one GPU of 40 GB."""
    monkeypatch.setattr(environment, "gpu_memory_bytes", lambda: [40 * 10**9])
    monkeypatch.setattr(local, "has_utilization", lambda: True)
    launcher = local.LocalLauncher(
        LauncherSettings(folders, jobs_per_gpu=4), [Slot(index, 1, "0") for index in range(4)]
    )
    yield launcher
    launcher.selector.close()


def a_stage(method: str, seed: int = 0) -> Stage:
    return Stage("transfer", {"seed": seed, "method": method}, axes={"method": method})


def measured(folders: Folders, stage: Stage, gigabytes: float | None, busy: float | None) -> Path:
    """Save a result of the stage with the given GPU use.

    Args:
        folders: runs folder to save it in.
        stage: stage of the result.
        gigabytes: peak memory, without the 0.7 GB of a CUDA context that the harness adds. None
            means that it was not measured.
        busy: utilization of the GPU, 0 to 1; None if not measured.

    Returns:
        The folder of the stage.
    """
    folder = stage.folder(folders.runs)
    result.save(
        result.Result(
            kind=stage.kind,
            key=stage.key,
            name="",
            axes=stage.axes,
            config=stage.config,
            needs={},
            metrics={},
            environment={},
            gpu_memory_bytes=None if gigabytes is None else round(gigabytes * 1e9),
            gpu_busy=busy,
            started_at="",
            wall_s=1,
        ),
        folder,
    )
    return folder


def occupy(launcher: local.LocalLauncher, *stages: Stage) -> None:
    """Mark the first slots as running `stages`, one stage each, and the other slots as free."""
    for index, slot in enumerate(launcher.slots):
        slot.running, slot.resource_key = (
            (Path("busy"), resource_key(stages[index])) if index < len(stages) else (None, ())
        )


def test_stages_share_a_gpu_once_one_of_their_kind_was_measured(launcher, folders):
    """Here memory is the limit: the stages take 10, 20 and unknown gigabytes of the GPU's 40."""
    small, large, unknown = map(a_stage, ("small", "large", "unknown"))
    measured(folders, small, 9, 0.1)  # in an earlier run
    measured(folders, large, 19, 0.1)
    for running, has_room in (  # "s", "l": the small or the large stage may start
        ((), "sl"),
        ((small,), "sl"),
        ((small, small), "s"),
        ((large,), "s"),
        ((large, small), ""),
        ((unknown,), ""),
    ):
        occupy(launcher, *running)
        assert [launcher.can_start(one) for one in (small, large)] == [
            "s" in has_room,
            "l" in has_room,
        ], running
        assert launcher.can_start(unknown) == (not running), (
            "the first stage of its kind must run alone"
        )
    occupy(launcher, small)
    launcher.sharing.learn(resource_key(unknown), measured(folders, unknown, 1, 0.1))
    assert launcher.can_start(unknown)
    launcher.sharing.mark_oom(resource_key(small))
    assert not launcher.can_start(unknown) and not launcher.can_start(small)
    assert launcher.sharing.known[resource_key(a_stage("large", seed=9))] == GpuUse(
        pytest.approx(19.7e9), 0.1
    )


@pytest.mark.parametrize(
    ("busy", "side_by_side"), [(0.95, 1), (0.75, 2), (0.5, 3), (0.4, 3), (0.3, 4), (0.0, 4)]
)
def test_a_busy_gpu_accepts_no_more_stages(launcher, folders, busy, side_by_side):
    stage = a_stage("light")
    measured(folders, stage, 1, busy)
    fitting = 0
    while launcher.can_start(stage):
        fitting += 1
        occupy(launcher, *[stage] * fitting)
    assert fitting == side_by_side == min(4, max(1, int(MAX_UTILIZATION / max(busy, 1e-9) + 1e-9)))


def test_utilizations_of_different_stages_add_up(launcher, folders):
    heavy, light = a_stage("heavy"), a_stage("light")
    measured(folders, heavy, 1, 0.95)
    measured(folders, light, 1, 0.3)
    occupy(launcher, heavy)
    assert launcher.can_start(light) and not launcher.can_start(heavy)
    occupy(launcher, heavy, light)
    assert not launcher.can_start(light)


def test_a_result_without_utilization_does_not_count_as_measured(launcher, folders):
    stage, other = a_stage("early"), a_stage("other")
    file = measured(folders, stage, 1, 0.1) / "result.json"
    record = json.loads(file.read_text())
    del record["gpu_busy"]
    file.write_text(json.dumps(record))
    loaded = result.load(file.parent)
    assert loaded is not None and loaded.gpu_busy is None
    measured(folders, other, 1, 0.1)
    occupy(launcher, other)
    assert launcher.can_start(other) and not launcher.can_start(stage)
    launcher.sharing.learn(resource_key(stage), measured(folders, a_stage("early", seed=1), 1, 0.2))
    assert launcher.can_start(stage)


def test_the_largest_use_of_a_kind_counts(folders):
    sharing = GpuSharing(folders.runs, 40e9)
    for seed, (gigabytes, busy) in enumerate([(1, 0.5), (3, 0.2), (2, None), (None, None)]):
        measured(folders, a_stage("full", seed), gigabytes, busy)
    assert sharing.is_known(resource_key(a_stage("full")))
    assert not sharing.is_known(resource_key(a_stage("fixed")))
    assert sharing.known[resource_key(a_stage("full"))] == GpuUse(pytest.approx(3.7e9), 0.5)


def shares_gpu_of(launcher: local.LocalLauncher, *stages: Stage) -> list[bool]:
    """Start stages in turn; return `shares_gpu` of each request that a worker receives."""
    record = []
    for slot in launcher.slots:
        slot.process, slot.running = (
            SimpleNamespace(stdin=io.BytesIO(), imported={"harness.stages.transfer.run"}),
            None,
        )
    for stage in stages:
        launcher.start(stage, Path("stages/some"))
    for slot in launcher.slots:
        record += [json.loads(line) for line in slot.process.stdin.getvalue().splitlines()]
        slot.process = None
    assert all(request["stage"] == "stages/some" for request in record)
    return [request["shares_gpu"] for request in record]


def test_only_stages_alone_on_their_gpu_are_measured(launcher, folders):
    known, unknown = a_stage("known"), a_stage("unknown")
    measured(folders, known, 1, 0.1)
    assert shares_gpu_of(launcher, known, known) == [True, True], (
        "others may join the first one at any time"
    )
    assert shares_gpu_of(launcher, unknown) == [False] and not launcher.can_start(known)
    launcher.settings = LauncherSettings(folders)
    assert shares_gpu_of(launcher, known) == [False], "one stage per GPU is always alone"
    for jobs_per_gpu in (1, 2):
        settings = LauncherSettings(folders, jobs_per_gpu=jobs_per_gpu)
        assert WorkerRequest.of(
            Path("stages/transfer/some"), settings, 1, gpus=True
        ).shares_gpu == (jobs_per_gpu > 1)


@pytest.mark.parametrize(("shares_gpu", "busy"), [(False, 0.4), (True, None)])
def test_a_result_records_utilization_only_if_the_stage_was_alone(
    folders, tmp_path, monkeypatch, shares_gpu, busy
):
    monitor = SimpleNamespace(mean_utilization=lambda: 0.4, max_memory_reserved=lambda: 7)
    monkeypatch.setattr(run_stage, "_gpu_monitor", lambda device: nullcontext(monitor))
    stage = Stage("rank", {"name": "one", "journal": str(tmp_path / "journal.txt")})
    folder = stage.folder(folders.runs)
    prepare(stage, folder)
    options = argparse.Namespace(
        processes=1,
        data_dir=folders.data,
        raw_dir=folders.raw,
        began_at=None,
        device="cpu",
        threads=1,
        stages_package="tests.helpers.fake_stages",
        checkpoint_minutes=5.0,
        trace=0,
        shares_gpu=shares_gpu,
    )
    answer = run_stage.run_stage(folder, options, SimpleNamespace(requested=False, running=False))
    loaded = result.load(folder)
    assert answer["status"] == "done" and loaded is not None
    assert (loaded.gpu_busy, loaded.gpu_memory_bytes) == (busy, 7)


def test_on_a_cpu_there_is_no_monitor():
    with run_stage._gpu_monitor("cpu") as gpu:
        assert gpu is None


def test_without_utilization_memory_decides_and_the_user_is_warned(folders, monkeypatch, capsys):
    monkeypatch.setattr(environment, "gpu_memory_bytes", lambda: [40 * 10**9])
    monkeypatch.setattr(local, "has_utilization", lambda: False)
    launcher = local.LocalLauncher(
        LauncherSettings(folders, jobs_per_gpu=2), [Slot(index, 1, "0") for index in range(2)]
    )
    assert "share a GPU by memory alone" in capsys.readouterr().err
    small, unknown = a_stage("small"), a_stage("unknown")
    measured(folders, small, 9, None)
    occupy(launcher, small)
    assert launcher.can_start(small) and not launcher.can_start(unknown)
    launcher.selector.close()


@pytest.mark.skipif(bool(environment.gpu_names()), reason="there is a GPU")
def test_without_a_gpu_there_is_no_utilization():
    assert not gpu_packing.has_utilization()
