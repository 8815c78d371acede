"""The environment of a result: what the process runs, and on which hardware."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.system import environment
from tests.helpers import ROOT


def fake_nvidia_smi(folder: Path, output: str) -> None:
    """Write an executable nvidia-smi that prints `output` to the folder."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{output}'\n")
    program.chmod(0o755)


def test_the_environment_is_json_and_imports_no_torch():
    code = (
        "import json, sys; from harness.system import environment\n"
        "print(json.dumps(environment.describe('cpu', 3)))\n"
        "assert 'torch' not in sys.modules\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    described = json.loads(process.stdout)
    assert described["num_threads"] == 3 and described["device"] == "cpu"
    assert described["gpu"] is None and set(described["packages"]) == set(environment.PACKAGES)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["Card A", "Card B"]),
        ("", []),
        ("-1", []),
        ("1", ["Card B"]),
        ("1,0", ["Card B", "Card A"]),
        ("GPU-b2", ["Card B"]),
    ],
)
def test_gpus_are_those_that_cuda_visible_devices_allows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    expected: list[str],
):
    fake_nvidia_smi(tmp_path, "0, GPU-a1, Card A\\n1, GPU-b2, Card B\\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.gpu_names() == expected


def test_gpu_memory_is_converted_from_mebibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_nvidia_smi(tmp_path, "0, GPU-a1, 81559\\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment.gpu_memory_bytes() == [81559 * 2**20]


def test_no_driver_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment.gpu_names() == [] and environment.gpu_memory_bytes() == []


def test_num_cores_is_within_the_affinity():
    assert 1 <= environment.num_cores() <= len(environment.cores())
    assert set(environment.cores()) == os.sched_getaffinity(0)
