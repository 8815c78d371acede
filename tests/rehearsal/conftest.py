"""Fixtures that give a fake CUDA machine to the process of the tests and to its children."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.rehearsal import cuda, machine, streams

ACTIVATION = Path(__file__).parent / "activation"


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Iterator[streams.Machine]:
    """Give one H100 to this process. Unexpected faults in the order of work fail the test."""
    monkeypatch.setenv(machine.VARIABLE, machine.describe(machine.cards({})))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cuda.install()
    try:
        yield streams.machine
    finally:
        expects_faults = streams.machine.expects_faults
        faults = cuda.uninstall()
    assert expects_faults or not faults


@pytest.fixture
def faked_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace only the functions of torch.cuda, for FakeTensorMode."""
    monkeypatch.setenv(machine.VARIABLE, machine.describe(machine.cards({})))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cuda.install(map_devices=False)
    try:
        yield
    finally:
        cuda.uninstall()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Gpus":
    """Return a function that gives this process and its children the cards of a fake machine."""
    return Gpus(monkeypatch, tmp_path)


class Gpus:
    """Put the fake nvidia-smi and NVML first in the search paths; a call describes the cards.

    Args of a call:
        changes: for each card, the fields of `machine.Gpu` that differ from their defaults.
        visible: CUDA_VISIBLE_DEVICES; None leaves it unset.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PATH", f"{tools(folder)}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.syspath_prepend(str(ACTIVATION))
        monkeypatch.delitem(sys.modules, "pynvml", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def __call__(self, *changes: dict[str, object], visible: str | None = None) -> None:
        self._monkeypatch.setenv(machine.VARIABLE, machine.describe(machine.cards(*changes)))
        if visible is not None:
            self._monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def tools(folder: Path) -> Path:
    """Return a folder for PATH whose nvidia-smi runs with this Python."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    script = tools / "nvidia-smi"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{ACTIVATION / "nvidia-smi"}" "$@"\n')
    script.chmod(0o755)
    return tools


def child_environment(folder: Path, *changes: dict[str, object]) -> dict[str, str]:
    """Return the environment of a process on a fake machine.

    Args:
        folder: folder for the fake nvidia-smi.
        changes: for each card, the changed fields of `machine.Gpu`; without any, one H100.
    """
    kept = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    return {
        **kept,
        machine.VARIABLE: machine.describe(machine.cards(*(changes or ({},)))),
        "PATH": f"{tools(folder)}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ACTIVATION), str(ROOT)]),
    }


def run_child(command: Sequence[str], folder: Path, *changes: dict[str, object]) -> str:
    """Run Python with the arguments `command` on a fake machine; return its output.

    Asserts success. `folder` and `changes` are those of `child_environment`.
    """
    ended = subprocess.run(
        [sys.executable, *command],
        env=child_environment(folder, *changes),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=840,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    return ended.stdout
