"""Slots divide the cores and GPUs of a machine among stages that run at once."""

import os
from pathlib import Path

import pytest

from harness.matrix.stage import Stage
from harness.runner.executor import Run
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.runner.slots import Slot, make_slots
from harness.system import environment
from tests.helpers.execution import load_result, matrix_of, settings_for
from writers.errors import UserError


def test_slots_divide_cores_and_gpus(folders, monkeypatch):
    monkeypatch.setattr(environment, "num_cores", lambda: 16)
    monkeypatch.setattr(environment, "gpu_names", lambda: ["H200", "H200"])
    monkeypatch.setattr(local, "has_utilization", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [(slot.num_threads, slot.gpu) for slot in make_slots(LauncherSettings(folders))] == [
        (8, "0"),
        (8, "1"),
        (4, None),
    ]
    on_cpu = make_slots(LauncherSettings(folders, device="cpu"))
    assert [(slot.num_threads, slot.gpu) for slot in on_cpu] == [(4, None)] * 4
    assert [slot.gpu for slot in make_slots(LauncherSettings(folders, 1))] == ["0", None]
    assert [slot.gpu for slot in make_slots(LauncherSettings(folders, 3, jobs_per_gpu=2))] == [
        "0",
        "1",
        "0",
        None,
    ]
    with pytest.raises(UserError, match="run only 2 stages at the same"):
        make_slots(LauncherSettings(folders, 3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [slot.gpu for slot in make_slots(LauncherSettings(folders))] == ["3", "5", None]
    packed = make_slots(LauncherSettings(folders, jobs_per_gpu=3))
    assert [(slot.num_threads, slot.gpu) for slot in packed[:-1]] == [
        (2, "3"),
        (2, "5"),
    ] * 3
    assert packed[-1].low_priority
    launcher = local.LocalLauncher(LauncherSettings(folders), packed)
    for slot in packed[:-1]:
        slot.running = Path("stages/transfer/busy")
    assert launcher.num_slots == 6
    assert launcher.can_start(Stage("write", {}))
    assert not launcher.can_start(Stage("transfer", {}))
    monkeypatch.setattr(environment, "gpu_names", list)
    monkeypatch.setattr(environment, "num_cores", lambda: 2)
    assert [(slot.num_threads, slot.gpu) for slot in make_slots(LauncherSettings(folders))] == [
        (1, None)
    ] * 2
    assert len(make_slots(LauncherSettings(folders, gpus_per_stage=2))) == 1
    with pytest.raises(UserError, match="number of processes, and this machine has 2 cores"):
        make_slots(LauncherSettings(folders, gpus_per_stage=99))
    monkeypatch.setattr(environment, "num_cores", lambda: 1)
    assert len(make_slots(LauncherSettings(folders, gpus_per_stage=2))) == 1
    with pytest.raises(UserError, match="Use --gpus-per-stage 2 or fewer"):
        make_slots(LauncherSettings(folders, gpus_per_stage=3))


def test_slots_get_cores_of_their_own_if_all_fit(folders, monkeypatch):
    monkeypatch.setattr(environment, "num_cores", lambda: 8)
    monkeypatch.setattr(environment, "cores", lambda: list(range(10, 18)))
    monkeypatch.setattr(environment, "gpu_names", list)
    cores = [slot.cores for slot in make_slots(LauncherSettings(folders, 3))]
    assert cores == [(10, 11), (12, 13), (14, 15)]
    assert not any(slot.cores for slot in make_slots(LauncherSettings(folders, 16))), (
        "more slots than cores: not pinned"
    )
    monkeypatch.setattr(environment, "num_cores", lambda: 4)
    assert not any(slot.cores for slot in make_slots(LauncherSettings(folders, 2))), (
        "a CPU quota does not name cores"
    )
    for settings in (
        LauncherSettings(folders, jobs_per_gpu=2),
        LauncherSettings(folders, device="cuda"),
    ):
        with pytest.raises(UserError, match="no GPU"):
            make_slots(settings)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="requires two cores")
def test_a_worker_runs_only_on_its_cores(folders, make):
    stages = [make(f"stage{index}", sleep_s=0.5) for index in range(2)]
    own = sorted(os.sched_getaffinity(0))[:2]
    slots = [Slot(index, 1, None, (own[index],)) for index in range(2)]
    with local.LocalLauncher(settings_for(folders, 2), slots) as launcher:
        for _ in Run(matrix_of(*stages), folders, launcher).events():
            pass
    cores = [load_result(stage, folders).metrics["cores"] for stage in stages]
    assert sorted(cores) == [[own[0]], [own[1]]]
