"""The benchmarks of training and the gpu-marked tests of the suite, in processes with a fake GPU."""

import json
import xml.etree.ElementTree as ElementTree

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
EPS = ("0", "3")
CODE = """
import json, sys
from harness.cli.benches import _training_rounds, _training_steps
from harness.cli.main import main
_training_steps.NUM_CLASSES, _training_rounds.WARM_UP_STEPS = 10, 1
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
"""


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Name -> record of benchmarks that one process runs, so that it imports torch once."""
    folder = tmp_path_factory.mktemp("benches")
    photos = folder / "photos" / "noise"
    photos.mkdir(parents=True)
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.jpg")
    places = ["--corpus", str(photos.parent), "--scratch", str(folder / "s"), "--threads", "1"]
    commands = {f"train {eps}": ["train", "--eps", eps, "--timer", *places] for eps in EPS}
    commands["attack"] = ["attack"]
    files = {name: folder / f"{name}.json" for name in commands}
    lines = [["bench", *commands[name], *TINY, "--json", str(files[name])] for name in commands]
    run_child(["-c", CODE, json.dumps(lines)], folder, T4)
    return {name: json.loads(file.read_text()) for name, file in files.items()}


@pytest.mark.parametrize("eps", EPS)
def test_bench_train_measures_every_compile_mode(benches, eps):
    record = benches[f"train {eps}"]
    ways = {f"ours:{way}" for way in COMPILE_MODES if eps == "3" or "captured" not in way}
    assert set(record["contenders"]) == TRAIN | ways and not record["absent"]
    assert record["environment"]["gpu"] == "Tesla T4"
    assert record["work"]["clock"] == "wall"


def test_bench_attack_measures_the_captured_attack(benches):
    record = benches["attack"]
    assert "ours:pgd3:captured" in record["contenders"] and not record["absent"]


def test_the_gpu_tests_of_the_suite_pass(tmp_path):
    report = tmp_path / "report.xml"
    options = ["-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
    run_child(["-m", "pytest", *options, *gpu_tests()], tmp_path)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None and int(suite.attrib["skipped"]) == 0
    modules = {case.attrib["classname"] for case in suite.findall("testcase")}
    named = {file.removesuffix(".py").replace("/", ".") for file in gpu_tests()}
    assert modules == named - {"tests.benchmarks.test_gpu_check"}  # has the mark in a string only


def test_a_process_rehearses_only_on_a_machine_that_was_described(tmp_path):
    code = "import torch; print(torch.cuda.device_count(), torch.cuda.Stream.__module__)"
    assert run_child(["-c", code], tmp_path).split() == ["1", "tests.rehearsal.streams"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "describe", lambda gpus: "")
        assert run_child(["-c", code], tmp_path).split()[1] == "torch.cuda.streams"
