"""Which GPUs the product sees on machines with several, with some hidden, with MIG, or silent ones."""

import subprocess

import pytest
import torch

from harness.profiling.gpu_monitor import GpuMonitor
from harness.runner.gpu_packing import has_utilization
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.system import environment
from harness.system.folders import Folders
from tests.rehearsal import cuda

SMALL = {"name": "NVIDIA A10", "memory_mib": 23028}
MIG = {"mig": (20480, 20480, 10240)}


def test_all_cards_are_seen(gpus):
    gpus({}, SMALL)
    assert environment.gpu_names() == ["NVIDIA H100 80GB HBM3", "NVIDIA A10"]
    assert environment.gpu_memory_bytes() == [81559 * 2**20, 23028 * 2**20]


@pytest.mark.parametrize("visible", ["", "-1"])
def test_no_card_is_seen_if_all_are_hidden(gpus, visible):
    gpus({}, SMALL, visible=visible)
    assert environment.gpu_names() == [] == environment.gpu_memory_bytes()


def test_no_card_is_seen_on_a_machine_without_one(gpus):
    gpus()
    assert environment.gpu_names() == [] and not has_utilization()


@pytest.mark.parametrize("visible", ["1", "GPU-00000001", "1,0"])
def test_the_memory_is_that_of_the_visible_card(gpus, visible):
    gpus({}, SMALL, visible=visible)
    assert environment.gpu_memory_bytes()[0] == 23028 * 2**20


def test_a_card_that_does_not_report_its_memory_is_no_error(gpus):
    gpus({"name": "NVIDIA GB10", "memory_mib": None})
    assert environment.gpu_memory_bytes() == [0]


@pytest.mark.xfail(strict=True, reason="the memory of a MIG instance is taken for the card's")
def test_the_memory_of_a_mig_instance_is_its_own(gpus):
    gpus(MIG)
    assert max(environment.gpu_memory_bytes()) <= 20480 * 2**20


@pytest.mark.xfail(strict=True, reason="launchers.local.slots makes one slot for a card with MIG")
def test_each_mig_instance_is_a_place_for_stages(gpus, tmp_path):
    gpus(MIG)
    slots = local.slots(LauncherSettings(Folders(tmp_path, tmp_path, tmp_path)))
    assert len({slot.gpu for slot in slots if slot.gpu is not None}) == 3


@pytest.mark.parametrize(
    ("card", "expected"), [({}, True), (MIG, False), ({"utilization": None}, False)]
)
def test_utilization_is_measured_if_every_card_reports_it(gpus, card, expected):
    gpus({}, card)
    assert has_utilization() is expected


@pytest.mark.parametrize(("visible", "power_w"), [(None, 350.0), ("1", 350.0)])
def test_a_monitor_samples_the_card_that_the_process_uses(gpus, visible, power_w):
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


def test_a_monitor_of_a_silent_card_has_its_name_and_memory(gpus):
    gpus({"utilization": None})
    cuda.install()
    try:
        with GpuMonitor("cuda:0") as monitor:
            pass
        assert set(monitor.summary()) == {"name", "allocated_peak_bytes"}
    finally:
        cuda.uninstall()


def test_the_fake_nvidia_smi_lists_cards_and_instances(gpus):
    gpus({}, MIG, visible="1")
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    assert listed.stdout.count("\n") == 5 and listed.stdout.count("MIG-") == 3
