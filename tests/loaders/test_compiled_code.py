"""Numba code is compiled once and kept on disk; another process computes the same epoch."""

import hashlib
import json
import subprocess
import sys

import pytest

from loaders import open_loader
from loaders.kernel import best_kernel
from loaders.plan import LoaderPlan
from tests.helpers import ROOT

SCRIPT = """
import hashlib, json, sys, numba, torch
from numba.core.event import RecordingListener, install_listener
torch.set_num_threads(3)
numba.set_num_threads(1)
from loaders import kernel, open_loader
from loaders.plan import LoaderPlan
kernel.best_kernel = lambda: sys.argv[2]
digest, compiling = hashlib.sha256(), RecordingListener()
with install_listener("numba:compile", compiling):
    loader = open_loader(LoaderPlan(sys.argv[1], 5, 20, augment="random_resized_crop", order="random", num_threads=2))
    for images, labels in loader.epoch(6):
        digest.update(images.permute(0, 2, 3, 1).numpy().tobytes() + labels.numpy().tobytes())
    with open_loader(LoaderPlan(sys.argv[1], 7, 33)) as evaluation:
        list(evaluation.epoch(0))
compiled = [event.data["dispatcher"].py_func for _, event in compiling.buffer if event.is_start]
print(json.dumps({"threads": [torch.get_num_threads(), numba.get_num_threads()], "digest": digest.hexdigest(),
                  "compiled": [function.__name__ for function in compiled if function.__module__.startswith("loaders.")],
                  "num_compiled": len(compiled)}))
left = loader.epoch(7)
next(left)
"""


@pytest.fixture(scope="module")
def processes(betons, tmp_path_factory) -> list[dict]:
    """Run three processes in turn with one new compilation cache; return the report of each.

    Each process exits inside an epoch.
    """
    environment = {
        "NUMBA_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "PATH": "/usr/bin:/bin",
    }
    report = []
    for name in ("numba", "numba", best_kernel()):
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, betons["mixed"], name],
            cwd=ROOT,
            env=environment,
            timeout=240,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stderr == ""
        report.append(json.loads(ended.stdout))
    return report


def test_each_function_is_compiled_once_for_training_and_evaluation_and_all_resolutions(processes):
    compiled = processes[0]["compiled"]
    assert "decode_run" in compiled
    assert "_sum_columns" in compiled
    assert len(set(compiled)) == len(compiled)


def test_the_second_process_compiles_nothing(processes):
    assert processes[1]["num_compiled"] == 0


def test_with_the_c_kernel_no_process_compiles_anything(processes):
    assert processes[2]["num_compiled"] == 0


def test_another_process_gives_the_same_epoch(processes, betons):
    digest = hashlib.sha256()
    with open_loader(
        LoaderPlan(betons["mixed"], 5, 20, augment="random_resized_crop", order="random")
    ) as loader:
        for images, labels in loader.epoch(6):
            digest.update(images.permute(0, 2, 3, 1).numpy().tobytes() + labels.numpy().tobytes())
    assert [report["digest"] for report in processes] == [digest.hexdigest()] * 3


def test_thread_counts_of_torch_and_numba_are_left_alone(processes):
    assert [report["threads"] for report in processes] == [[3, 1]] * 3


def test_no_folder_for_compiled_code_is_no_error(monkeypatch):
    from loaders import compile_numba

    def refuse(*args: object, **options: object) -> object:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(compile_numba, "njit", refuse)
    assert compile_numba.compiled(lambda version: len, [])([1, 2]) == 2
