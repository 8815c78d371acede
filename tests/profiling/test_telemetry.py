"""Telemetry of a run: FLOPs against a hand count, peak FLOP/s, NVML samples, a trace."""

import copy
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.config.attack import AttackSettings
from harness.modeling import classifier
from harness.modeling.flops import peak_flops, training_flops
from harness.profiling import gpu_monitor
from harness.profiling.gpu_monitor import GpuMonitor
from harness.profiling.trace import StepTrace
from tests.helpers import ROOT

K, SIDE, CHANNELS = 5, 32, (16, 16, 16, 16)


def hand_count(model: classifier.Classifier) -> float:
    """Compute the FLOPs of a forward pass from output shapes: two per multiply-add."""
    counts = []

    def count(module, inputs, output):
        if isinstance(module, torch.nn.Conv2d):
            height, width = output.shape[2:]
            counts.append(2.0 * module.weight.numel() * height * width)
        elif isinstance(module, torch.nn.Linear):
            counts.append(2.0 * module.weight.numel())

    for module in model.modules():
        module.register_forward_hook(count)
    model(torch.rand(1, 3, SIDE, SIDE))
    return sum(counts)


def test_flops_equal_a_hand_count():
    """Costs in forward passes: 3 for a training step, 2 for a PGD step, 1 for the best iterate."""
    model = classifier.build("resnet10", K, channels=CHANNELS).eval()
    forward = hand_count(copy.deepcopy(model))
    assert training_flops(model, SIDE, None) == pytest.approx(3 * forward)
    assert training_flops(model, SIDE, AttackSettings(steps=3)) == pytest.approx(9 * forward)
    assert training_flops(model, SIDE, AttackSettings(steps=3, best_iterate=True)) == pytest.approx(
        10 * forward
    )
    assert training_flops(model, SIDE, AttackSettings(method="free")) == pytest.approx(
        4 * 3 * forward
    )
    assert not model.training and model.head.weight.device.type == "cpu"


@pytest.mark.parametrize(
    ("arch", "multiply_adds"), [("resnet18", 1.81e9), ("torchvision/efficientnet_b0", 0.386e9)]
)
def test_flops_equal_published_ones(arch, multiply_adds):
    """The oracle is torchvision's table at 224 pixels, whose GFLOPS count multiply-adds.

    efficientnet_b0 has depthwise convolutions.
    """
    # Three passes of two FLOPs per multiply-add. The table has three digits and omits small layers.
    assert training_flops(classifier.build(arch, 1000), 224, None) / 6 == pytest.approx(
        multiply_adds, rel=0.03
    )


def test_a_failing_model_has_no_flops():
    class Strange(torch.nn.Module):
        def forward(self, images):
            raise NotImplementedError("only on a GPU")

    assert training_flops(Strange(), SIDE, None) is None


@pytest.mark.parametrize("arch", ["torchvision/mobilenet_v2", "torchvision/vit_b_16"])
def test_flops_equal_torchs_counter(arch):
    model = classifier.build(arch, 10).eval()
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model.to("meta")(torch.empty(1, 3, 224, 224, device="meta"))
    assert training_flops(classifier.build(arch, 10), 224, None) == 3 * counter.get_total_flops()


def test_training_imports_no_compiler():
    """torch's optimizers and FLOP counter would import torch._dynamo, which takes seconds."""
    code = """
import sys, torch
from harness.modeling import classifier
from harness.modeling.flops import training_flops
from harness.train.optimizer import make_sgd
from harness.config.train import ScheduleSettings
model = classifier.build("resnet10", 3, channels=(16, 16, 16, 16))
assert training_flops(model, 16, None)
optimizer = make_sgd(model, ScheduleSettings(), 0.1)
model(torch.zeros(2, 3, 16, 16)).sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.mark.parametrize(
    ("gpu", "precision", "peak"),
    [
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "fp16", 756e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "bf16", None),
        ("Tesla T4", "fp16", 65e12),
        ("Tesla T4", "bf16", None),
        ("NVIDIA H200", "float32", None),
        ("NVIDIA Unheard 9000", "bf16", None),
    ],
)
def test_peak_flops_by_gpu_name(gpu, precision, peak):
    assert peak_flops(gpu, precision) == peak


class FakeNvml:
    """NVML with two samples, then an error, like a GPU that is reset."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.samples = iter([(50, 1000, 10, 100_000), (100, 2000, 30, 300_000)])

    def nvmlInit(self) -> None:
        self.calls.append("init")

    def nvmlShutdown(self) -> None:
        self.calls.append("shutdown")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.calls.append(uuid)
        return "handle"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        try:
            self.now = next(self.samples)
        except StopIteration:
            raise self.NVMLError from None
        return SimpleNamespace(gpu=self.now[0])

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return self.now[1]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=self.now[2])

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self.now[3]


@pytest.fixture
def gpu(monkeypatch):
    """Fake a GPU whose peak memory can be reset only after CUDA is initialized."""
    initialized = []

    def reset_peak_memory_stats(device: torch.device) -> None:
        if not initialized:
            raise RuntimeError("Invalid device argument : did you call init?")

    monkeypatch.setattr(torch.cuda, "init", lambda: initialized.append(True))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset_peak_memory_stats)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(gpu_monitor, "_uuid", lambda device: "GPU-1234")
    monkeypatch.setattr(gpu_monitor, "SAMPLE_EVERY_S", 0.001)


def test_gpu_samples_are_summarized(gpu, monkeypatch):
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    started = time.monotonic()
    with GpuMonitor("cuda:0") as monitor:
        limit = time.monotonic() + 240
        while monitor._thread.is_alive() and time.monotonic() < limit:
            time.sleep(0.002)
    longest_h = (time.monotonic() - started) / 3600
    summary = monitor.summary()
    assert summary is not None and 0 < summary.pop("energy_wh") <= 200.0 * longest_h
    assert summary == {
        "name": "NVIDIA H200",
        "allocated_peak_bytes": 7,
        "utilisation": 0.75,
        "sm_clock_mhz": 1500.0,
        "sm_clock_min_mhz": 1000,
        "memory_peak_bytes": 30,
        "power_w": 200.0,
        "num_samples": 2,
    }
    assert nvml.calls == ["init", "GPU-1234", "shutdown"]


def test_a_short_block_is_sampled_at_its_end(gpu, monkeypatch):
    monkeypatch.setattr(gpu_monitor, "SAMPLE_EVERY_S", 60.0)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    with GpuMonitor("cuda:0") as monitor:
        pass
    assert monitor.mean_utilization() == 0.5


def test_without_nvml_the_summary_has_torchs_values_and_is_none_on_a_cpu(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with GpuMonitor("cuda:0") as monitor:
        pass
    assert monitor.summary() == {"name": "NVIDIA H200", "allocated_peak_bytes": 7}
    assert monitor.mean_utilization() is None
    with GpuMonitor("cpu") as monitor:
        pass
    assert monitor.summary() is None


@pytest.mark.parametrize(
    ("num_steps", "taken", "seen"), [(2, 9, 2), (5, 6, 3), (0, 9, None), (3, 2, None)]
)
def test_a_trace_skips_the_first_steps(tmp_path, num_steps, taken, seen):
    trace = StepTrace(tmp_path, num_steps, "cpu")
    for step in range(taken):
        with torch.profiler.record_function(f"step{step}"):
            torch.rand(3, 3).mm(torch.rand(3, 3))
        trace.after_step()
    trace.close()
    if seen is None:
        assert trace.file is None and not list(tmp_path.iterdir())
        return
    events = json.loads((tmp_path / trace.file).read_text())["traceEvents"]
    names = {event["name"] for event in events if str(event.get("name", "")).startswith("step")}
    assert names == {f"step{step}" for step in range(3, 3 + seen)}
