"""The benchmarks of training and the gpu-marked tests of the suite, in processes with a fake GPU."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.gpu_check_parts import gpu_tests
from tests.rehearsal import machine
from tests.rehearsal.conftest import run_child
from tests.rehearsal.product import COMPILE_MODES

TINY = [
    "--arch",
    "resnet10",
    "--resolution",
    "16",
    "--batch-size",
    "2",
    "--rounds",
    "2",
    "--steps",
    "1",
    "--device",
    "cuda:0",
]
TRAIN = {"plain", "ours:fed", "ours:timed"}
T4 = {"name": "Tesla T4", "memory_mib": 15360, "capability": (7, 5)}  # no bf16: slow on a CPU
CODE = """
from harness.cli.benches import _training_rounds, _training_steps
from harness.cli.main import main
_training_steps.NUM_CLASSES, _training_rounds.WARM_UP_STEPS = 10, 1
main()
"""


def bench(folder: Path, *arguments: str) -> dict:
    file = folder / "record.json"
    run_child(["-c", CODE, "bench", *arguments, *TINY, "--json", str(file)], folder, T4)
    return json.loads(file.read_text())


@pytest.mark.parametrize("eps", ["0", "3"])
def test_bench_train_measures_every_way(tmp_path, eps):
    photos = tmp_path / "photos" / "noise"
    photos.mkdir(parents=True)
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.jpg")
    places = ["--corpus", str(photos.parent), "--scratch", str(tmp_path / "s"), "--threads", "1"]
    record = bench(tmp_path, "train", "--eps", eps, "--timer", *places)
    ways = {f"ours:{way}" for way in COMPILE_MODES if eps == "3" or "captured" not in way}
    assert set(record["contenders"]) == TRAIN | ways and not record["absent"]
    assert record["environment"]["gpu"] == "Tesla T4"
    assert record["work"]["clock"] == "wall"


def test_bench_attack_measures_the_captured_attack(tmp_path):
    record = bench(tmp_path, "attack")
    assert "ours:pgd3:captured" in record["contenders"] and not record["absent"]


def test_the_gpu_tests_of_the_suite_pass(tmp_path):
    report = tmp_path / "report.xml"
    options = ["-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
    run_child(["-m", "pytest", *options, *gpu_tests()], tmp_path)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None and int(suite.attrib["skipped"]) == 0
    assert int(suite.attrib["tests"]) >= 4


def test_a_process_rehearses_only_on_a_machine_that_was_described(tmp_path):
    code = "import torch; print(torch.cuda.device_count(), torch.cuda.Stream.__module__)"
    assert run_child(["-c", code], tmp_path).split() == ["1", "tests.rehearsal.streams"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "describe", lambda gpus: "")
        assert run_child(["-c", code], tmp_path).split()[1] == "torch.cuda.streams"
