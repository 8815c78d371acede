"""Predicted GPU-hours of published runs and of shipped recipes, and stages without prediction."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import network_costs as counting
from benchmarks.gpu_predictions import COSTS
from harness.cli.commands._plan_estimate import predictor, print_estimate, work_time
from harness.cli.main import main
from harness.config.load import read
from harness.estimate import prediction
from harness.estimate.calibration import Calibration, Machine
from harness.estimate.estimate import Estimate, estimate
from harness.estimate.prediction import H100, Gpu, Predictor, network_costs
from harness.estimate.workload import Workloads
from harness.matrix.expand import expand
from harness.system.folders import Folders

# The bandwidth is that of the data sheet. Convolutions reach the same fraction of the data sheet's
# FLOP/s as on an H100: 150 of 312 TFLOP/s.
A100 = Gpu("A100 SXM, 40 GB", 1.555e12, 150e12)


def predict(recipe: str, *overrides: str, gpu: Gpu = H100) -> Estimate:
    left = {stage.key: stage for stage in expand(read(recipe, overrides)).stages}
    return estimate(left, Path("runs"), None, Predictor(Workloads(Path("runs")), gpu))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("epochs", "minutes"), [(16, 35.0), (88, 187.0)])
def test_the_published_runs_of_ffcv_imagenet_are_predicted_within_a_tenth(
    epochs: int, minutes: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(prediction, "STAGE_S", 0.0)
    options = (f"pretrain.preset=ffcv_resnet18_{epochs}", "pretrain.compile=off")
    found = predict("imagenet_rn18_16", *options, gpu=A100)
    assert 60 * found.predicted_gpu_hours == pytest.approx(minutes, rel=0.1)
    assert found.predicted_for == A100.name


@pytest.mark.parametrize(
    ("recipe", "overrides", "documented"),  # bounds of the hours in the recipe's first comment
    [
        ("imagenet_rn18_16", [], (10 / 60, 18 / 60)),
        ("imagenet_rn18_16_robust", [], (41 / 60, 72 / 60)),
        ("robust_l2", ["scale=day"], (18, 22)),
    ],
)
def test_predictions_agree_with_the_first_comments_of_the_recipes(
    recipe: str, overrides: list[str], documented: tuple[float, float]
):
    found = predict(recipe, *overrides)
    assert found.num_predicted == found.num_unknown and found.hours == 0
    assert documented[0] <= found.predicted_gpu_hours <= documented[1]


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("is_attacked", [False, True])
@pytest.mark.parametrize("compiled", ["off", "auto"])
def test_seconds_of_a_step_agree_with_the_memory_traffic_of_the_gpu_check(
    arch: str, is_attacked: bool, compiled: str
):
    step: dict[str, Any] = {
        "step": "pretrain",
        "arch": arch,
        "attacked": is_attacked,
        "settings": {
            "resolution": 224,
            "compile": compiled,
            "attack": {"method": "pgd", "steps": 3, "best_iterate": False},
        },
    }
    seconds = prediction._image_seconds(step, H100, heads_only=False)
    cost = COSTS[arch, is_attacked]
    megabytes = cost.eager_mb if compiled == "off" else cost.fused_mb
    expected = 1e6 * megabytes / (0.9 * H100.bytes_per_s) / prediction.REACHED
    assert seconds == pytest.approx(expected, rel=0.1)


def test_the_table_of_network_costs_agrees_with_documented_numbers():
    # torchvision documents 1.81e9 multiply-adds (2 operations each), timm 2.48e6 activations.
    assert counting.count("resnet18") == (224, pytest.approx(2 * 1.81e9, rel=0.01), 2483712)
    row = network_costs()["resnet18"]
    assert row.flop == pytest.approx(2 * 1.81e9, rel=0.01) and row.activations == 2.484e6


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("demo", []),
        ("photos", []),
        ("robust_l2", ["scale=tiny"]),
        ("which_classes", ["scale=tiny"]),
    ],
)
def test_recipes_for_a_cpu_are_not_predicted(recipe: str, overrides: list[str]):
    found = predict(recipe, *overrides)
    assert found.predicted_for is None and found.predicted_gpu_hours == 0


def test_unknown_networks_stay_unknown(monkeypatch: pytest.MonkeyPatch):
    costs = {name: cost for name, cost in network_costs().items() if "vit" not in name}
    monkeypatch.setattr(prediction, "network_costs", lambda: costs)
    found = predict("vtab")
    assert 0 < found.num_predicted < found.num_unknown
    monkeypatch.setattr(prediction, "network_costs", dict)
    assert predict("imagenet_rn18_16").predicted_for is None


def test_calibrated_stages_are_not_predicted():
    left = {stage.key: stage for stage in expand(read("imagenet_rn18_16")).stages}
    workloads = Workloads(Path("runs"))
    steps = {part.key: 0.1 for stage in left.values() for part in workloads.of(stage) or ()}
    known = Calibration(Machine("some GPU", "2.0"), steps)
    found = estimate(left, Path("runs"), known, Predictor(workloads))
    assert found.num_calibrated == 2 and found.predicted_for is None


def test_plan_prints_a_prediction_for_a_named_gpu(capsys: pytest.CaptureFixture[str]):
    def show(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["plan", *options])
        assert not ended.value.code
        return capsys.readouterr().out

    text = " ".join(show("which_classes", "--set", "scale=day").split())
    assert re.search(r"left: [\d,]+ stages without a measured time, because", text)
    # The recipe's first comment has 12 hours, without the time that the loader adds.
    assert "predicted: about 13 GPU-hours on one H100 SXM for these stages, not measured" in text
    assert "el2n: 2 pretrainings, about 0.4 GPU-hours (predicted)" in text
    found = json.loads(show("imagenet_rn18_16", "--json"))["estimate"]
    assert found["predicted_for"] == "H100 SXM" and found["num_predicted"] == 3


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (4572.4, "4,572 GPU-hours"),
        (12.6, "13 GPU-hours"),
        (0.1, "0.1 GPU-hours"),
        (0.0419, "2.5 GPU-minutes"),
        (15.4 / 3600, "15 GPU-seconds"),
        (4.2 / 3600, "4.2 GPU-seconds"),
    ],
)
def test_short_predictions_are_not_rounded_to_zero_hours(hours: float, text: str):
    assert work_time(hours, "GPU-") == text


def test_plan_prints_seconds_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The stages of features and of the classifier each take 15 s to start; images add seconds."""
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(
        "name: one\nmodels: [torchvision/resnet18]\ntargets: [{dataset: pets}]\n"
        "methods: {logreg: {}}\n"
    )
    with pytest.raises(SystemExit):
        main(["plan", "one.yaml"])
    out = " ".join(capsys.readouterr().out.split())
    seconds = re.search(r"predicted: about (\d+) GPU-seconds on one H100 SXM", out)
    assert seconds is not None and 30 <= int(seconds[1]) < 60


def test_a_single_stage_is_not_described_as_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(
        "name: one\nmodels: [torchvision/resnet18]\ntargets: [{dataset: pets}]\n"
        "methods: {logreg: {}}\n"
    )
    last = {
        stage.key: stage for stage in expand(read("one.yaml")).stages if stage.kind == "transfer"
    }
    folders = Folders.resolve(Path("data"), Path("raw"), Path("runs"))
    print_estimate(last, folders, None, predictor(folders))
    left, predicted = capsys.readouterr().out.splitlines()
    assert left.startswith("left: 1 stage without a measured time")
    assert predicted.startswith("predicted: about ") and " for this stage," in predicted
