"""Which GPUs the product sees on machines with several, with some hidden, with MIG, or silent ones."""

import subprocess

import pytest
import torch

from harness.profiling.gpu_monitor import GpuMonitor
from harness.runner.gpu_packing import has_utilization
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.runner.slots import make_slots
from harness.system import distributed, environment
from harness.system.folders import Folders
from harness.system.gpu import select_gpu
from tests.rehearsal import cuda, machine
from tests.rehearsal.conftest import run_child
from writers.errors import UserError

SMALL = {"name": "NVIDIA A10", "memory_mib": 23028}
MIG = {"mig": (20480, 20480, 10240)}
# Bytes. The driver keeps a part of an instance, so 95 % of it count.
LARGE_INSTANCE, SMALL_INSTANCE = 19456 * 2**20, 9728 * 2**20


def test_all_gpus_are_visible(gpus):
    gpus({}, SMALL)
    assert environment.gpu_names() == ["NVIDIA H100 80GB HBM3", "NVIDIA A10"]
    assert environment.gpu_memory_bytes() == [81559 * 2**20, 23028 * 2**20]


@pytest.mark.parametrize("visible", ["", "-1"])
def test_no_gpu_is_visible_if_all_are_hidden(gpus, visible):
    gpus({}, SMALL, visible=visible)
    assert environment.gpu_names() == [] == environment.gpu_memory_bytes()


def test_no_gpu_is_visible_on_a_machine_without_one(gpus):
    gpus()
    assert environment.gpu_names() == [] and not has_utilization()


@pytest.mark.parametrize("visible", ["1", "GPU-00000001", "1,0"])
def test_memory_is_that_of_the_visible_gpu(gpus, visible):
    gpus({}, SMALL, visible=visible)
    assert environment.gpu_memory_bytes()[0] == 23028 * 2**20


def test_a_gpu_that_does_not_report_its_memory_is_no_error(gpus):
    gpus({"name": "NVIDIA GB10", "memory_mib": None})
    assert environment.gpu_memory_bytes() == [0]


def test_the_memory_of_a_mig_instance_is_its_own(gpus):
    gpus(MIG)
    assert environment.gpu_memory_bytes() == [LARGE_INSTANCE, LARGE_INSTANCE, SMALL_INSTANCE]


def test_each_mig_instance_is_a_slot(gpus, tmp_path):
    gpus(MIG)
    slots = make_slots(LauncherSettings(Folders(tmp_path, tmp_path, tmp_path)))
    assert len({slot.gpu for slot in slots if slot.gpu is not None}) == 3


def test_a_stage_cannot_use_several_mig_instances(gpus, tmp_path):
    """A process sees only one, so all processes of the stage would share it."""
    gpus(MIG)
    settings = LauncherSettings(Folders(tmp_path, tmp_path, tmp_path), gpus_per_stage=2)
    with pytest.raises(UserError, match="only one MIG instance"):
        make_slots(settings)


def test_a_worker_has_the_gpu_that_its_slot_names(gpus, tmp_path, monkeypatch):
    """nvidia-smi counts by the bus, and CUDA begins with the fastest card."""
    gpus(SMALL, {})
    settings = LauncherSettings(Folders(tmp_path, tmp_path, tmp_path), device="cuda")
    slots = [slot for slot in make_slots(settings) if slot.gpu is not None]
    launcher, names = local.LocalLauncher(settings, slots), environment.gpu_names()
    for slot, name in zip(slots, names, strict=True):
        for variable, value in launcher._variables(slot).items():
            monkeypatch.setenv(variable, value)
        assert [device.name for device in machine.visible()] == [name]


def test_instances_are_chosen_by_uuid_and_the_list_ends_at_an_unknown_entry(gpus):
    first, second = (f"MIG-00000000-0000-0000-0000-00000000000{number}" for number in (0, 2))
    gpus(MIG, visible=f"{second},{first},MIG-ffffffff,{first}")
    assert environment.gpu_ids() == [second, first]
    assert environment.gpu_memory_bytes() == [SMALL_INSTANCE, LARGE_INSTANCE]
    gpus(MIG, SMALL, visible="1,7,0")
    assert environment.gpu_memory_bytes() == [23028 * 2**20]
    gpus(MIG, SMALL, visible="0")
    assert len(environment.gpu_ids()) == 1
    assert environment.gpu_memory_bytes() == [LARGE_INSTANCE]


@pytest.mark.parametrize(
    ("card", "expected"), [({}, True), (MIG, False), ({"utilization": None}, False)]
)
def test_utilization_is_measured_if_every_gpu_reports_it(gpus, card, expected):
    gpus({}, card)
    assert has_utilization() is expected


@pytest.mark.parametrize(("visible", "power_w"), [(None, 350.0), ("1", 350.0)])
def test_a_monitor_samples_the_gpu_that_the_process_uses(gpus, visible, power_w):
    gpus({"utilization": 90}, {**SMALL, "utilization": 20}, visible=visible)
    cuda.install()
    try:
        with GpuMonitor("cuda:0") as monitor:
            torch.zeros(2, device="cuda:0")
        summary = monitor.summary()
    finally:
        cuda.uninstall()
    assert summary is not None and summary["power_w"] == power_w
    assert summary["name"] == ("NVIDIA A10" if visible else "NVIDIA H100 80GB HBM3")
    assert summary["utilisation"] == (0.2 if visible else 0.9)


def test_a_monitor_of_a_virtual_gpu_has_its_utilization(gpus):
    """Stages share a GPU by utilization wherever `has_utilization` is True."""
    gpus({"is_virtual": True, "utilization": 70})
    assert has_utilization()
    cuda.install()
    try:
        with GpuMonitor("cuda:0") as monitor:
            pass
        assert monitor.mean_utilization() == 0.7
        assert set(monitor.summary()) == {
            "name",
            "allocated_peak_bytes",
            "utilisation",
            "num_samples",
            "memory_peak_bytes",
        }
    finally:
        cuda.uninstall()


def test_a_monitor_without_nvml_has_name_and_memory(gpus):
    gpus({"utilization": None})
    cuda.install()
    try:
        with GpuMonitor("cuda:0") as monitor:
            pass
        assert set(monitor.summary()) == {"name", "allocated_peak_bytes"}
    finally:
        cuda.uninstall()


def test_the_fake_nvidia_smi_lists_gpus_and_mig_instances(gpus):
    gpus({}, MIG, visible="1")
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    assert listed.stdout.count("\n") == 5 and listed.stdout.count("MIG-") == 3


def test_a_process_computes_on_the_gpu_that_was_named(gpus, monkeypatch):
    """Streams, events and captures name no device: the current one must be the right one."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    gpus({}, SMALL)
    cuda.install()
    try:
        select_gpu("cpu")
        assert torch.cuda.current_device() == 0 and torch.backends.cudnn.allow_tf32
        select_gpu("cuda:1")
        assert torch.cuda.Stream().device == torch.device("cuda:1")
        assert not torch.backends.cudnn.allow_tf32  # float32 is float32
        select_gpu("cuda")
        assert torch.cuda.current_device() == 0
    finally:
        cuda.uninstall()


STAGE = """
import sys
from harness.runner import run_stage
import torch
run_stage._prepare_torch(1, sys.argv[1])
print(torch.cuda.current_device(), torch.backends.cudnn.allow_tf32)
"""


def test_a_worker_selects_its_gpu(tmp_path):
    assert run_child(["-c", STAGE, "cuda:1"], tmp_path, {}, {}).split() == ["1", "False"]


@pytest.mark.parametrize(("num_gpus", "expected"), [(2, "cpu:gloo,cuda:nccl"), (1, "gloo")])
def test_ranks_with_a_gpu_each_use_nccl(gpus, monkeypatch, num_gpus, expected):
    gpus(*[{}] * num_gpus)
    backends = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda b, **_: backends.append(b))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    group = distributed.ProcessGroup(1, 2, 1, 2)
    cuda.install()
    try:
        with distributed.init_process_group(group, "cuda:0"):
            assert torch.cuda.current_device() == num_gpus - 1
        assert group.device("cuda:0") == f"cuda:{num_gpus - 1}" and backends == [expected]
    finally:
        cuda.uninstall()
